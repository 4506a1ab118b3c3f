"""Stable Diffusion 3 and 3.5: two CLIP encoders and T5, an MMDiT, flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion.noise import randn
from aquatint.diffusion.prompt import Conditioning, EncoderOutput
from aquatint.diffusion.rows import Tensors
from aquatint.diffusion.served_model import ServedModel, TextEncoder


class StableDiffusion3:
    """Arranges arrays as diffusers' ``StableDiffusion3Pipeline`` does."""

    name = "sd3"

    def assemble(self, served: ServedModel, outputs: dict[str, EncoderOutput], dropped_tokens: int) -> Conditioning:
        """Join encoder outputs as ``encode_prompt`` does.

        CLIP sequences are joined feature-wise and zero-padded to the joint dimension, T5 follows along the sequence,
        pooled CLIP vectors are joined. An absent encoder contributes zeros.
        """
        clips = [encoder for encoder in served.text_encoders if encoder.kind == "clip"]
        others = [encoder for encoder in served.text_encoders if encoder.kind != "clip"]
        dim = served.joint_attention_dim
        clip = np.concatenate([_sequence(encoder, outputs, encoder.hidden_size) for encoder in clips], axis=1)
        parts = [np.pad(clip, ((0, 0), (0, dim - clip.shape[1])))]
        parts += [_sequence(encoder, outputs, dim) for encoder in others]
        pooled = [_pooled(encoder, outputs) for encoder in clips]
        return Conditioning(np.concatenate(parts), np.concatenate(pooled), dropped_tokens)

    def prepare_latents(self, served: ServedModel, request: ResolvedRequest) -> NDArray[np.float32]:
        """Sample the noise of every seed, FP32 ``(images, channels, h, w)``."""
        shape = served.latent_shape(request.width, request.height)
        return np.stack([randn(shape, seed) for seed in request.seeds])

    def image_seq_len(self, served: ServedModel, latents: NDArray[np.float32]) -> int:
        """Count the transformer's patches of one image."""
        return (latents.shape[-2] // served.patch_size) * (latents.shape[-1] // served.patch_size)

    def conditioning(self, rows: Sequence[Conditioning]) -> Tensors:
        """Stack the conditionings under the names that ``SD3Transformer2DModel`` has for them."""
        return {
            "encoder_hidden_states": np.stack([row.prompt_embeds for row in rows]),
            "pooled_projections": np.stack([row.pooled for row in rows]),
        }

    def transformer_inputs(self, latents: Any, timesteps: NDArray[np.float32], conditioning: Tensors) -> Tensors:
        """Name the inputs as ``SD3Transformer2DModel`` does."""
        return {"hidden_states": latents, "timestep": timesteps, **conditioning}

    def decoder_input(self, served: ServedModel, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Undo the scaling and shift of the latents."""
        return latents / np.float32(served.scaling_factor) + np.float32(served.shift_factor)


def _sequence(encoder: TextEncoder, outputs: dict[str, EncoderOutput], dim: int) -> NDArray[np.float32]:
    if encoder.component in outputs:
        return outputs[encoder.component].prompt_embeds
    return np.zeros((encoder.tokens, dim), np.float32)


def _pooled(encoder: TextEncoder, outputs: dict[str, EncoderOutput]) -> NDArray[np.float32]:
    output = outputs.get(encoder.component)
    if output is None or output.pooled is None:
        return np.zeros(encoder.projection_dim, np.float32)
    return output.pooled


FAMILY = StableDiffusion3()
