"""Read an SD3-family diffusers checkpoint: safetensors only, any text encoder may be absent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from aquatint.contract.errors import ModelRejected
from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion import samplers
from aquatint.diffusion.pipeline import Pipeline
from aquatint.diffusion.preview import fit_preview_factors
from aquatint.diffusion.served_model import ServedModel, TextEncoder
from aquatint.repository import checkpoint_info
from aquatint.repository.checkpoint_info import Defaults
from aquatint_export.components import Component, TensorSpec
from aquatint_export.families.sd3 import large, streaming
from aquatint_export.families.sd3.modules import T5, Clip, VaeDecoder, wrap
from aquatint_export.options import ExportOptions

_ENCODERS = (
    ("text_encoder", "tokenizer", "clip"),
    ("text_encoder_2", "tokenizer_2", "clip"),
    ("text_encoder_3", "tokenizer_3", "t5"),
)
# diffusers' own default for ``max_sequence_length``.
_MAX_T5_TOKENS = 256
_CLIP_TOKENS = 77


@dataclass(frozen=True, kw_only=True)
class SD3Checkpoint:
    """A loaded pipeline in FP32 on the CPU, and where it came from."""

    folder: Path
    pipeline: StableDiffusion3Pipeline
    source: str
    licence: str
    defaults: Defaults

    @property
    def skip_layers(self) -> tuple[int, ...]:
        """The transformer's layers that skip-layer guidance goes without; empty where it is not used."""
        guidance = self.defaults.skip_layer_guidance
        return guidance.layers if guidance is not None else ()

    def components(self) -> list[Component]:
        """List the present text encoders, the transformer and the VAE decoder, around the pipeline's own modules."""
        encoders = [self._text_encoder_component(encoder) for encoder in self.text_encoders() if encoder.present]
        config = self.pipeline.transformer.config
        latent = (config.in_channels, "latent_height", "latent_width")
        skippable = (TensorSpec("skip_layers", torch.float32, ()),) if self.skip_layers else ()
        transformer = Component(
            "transformer",
            wrap("transformer", self.pipeline.transformer, self.skip_layers),
            (
                TensorSpec("hidden_states", torch.float32, latent),
                TensorSpec("timestep", torch.float32, ()),
                TensorSpec("encoder_hidden_states", torch.float32, ("sequence", config.joint_attention_dim)),
                TensorSpec("pooled_projections", torch.float32, (config.pooled_projection_dim,)),
                *skippable,
            ),
            (TensorSpec("noise_pred", torch.float32, latent),),
        )
        decoder = Component(
            "vae_decoder",
            VaeDecoder(self.pipeline.vae),
            (TensorSpec("latent_sample", torch.float32, latent),),
            (TensorSpec("sample", torch.float32, (3, "height", "width")),),
        )
        return [*encoders, transformer, decoder]

    @contextlib.contextmanager
    def loaded(self, component: Component) -> Iterator[nn.Module]:
        """Hold a component's module with its weights in FP32; if it had none in memory, they are freed again."""
        if component.is_in_memory:
            yield component.module
        else:
            with large.loaded(self.folder, component.name) as module:
                yield wrap(component.name, module, self.skip_layers)

    def can_stream(self, component: Component) -> bool:
        """Return whether this is a transformer without weights: T5 cannot be traced without, but is alone in memory."""
        return component.name == "transformer" and not component.is_in_memory

    def stream(self, component: Component, folder: Path, *, dtype: str) -> None:
        """Write ``folder/model.onnx`` without holding the weights. Raises ``ModelRejected``."""
        streaming.export(component, self.folder, folder, dtype=dtype, skip_layers=self.skip_layers)

    def tokenizer(self, encoder: TextEncoder) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a text encoder that is present."""
        tokenizer: PreTrainedTokenizerBase = getattr(self.pipeline, encoder.tokenizer)
        return tokenizer

    def served_model(self, options: ExportOptions) -> ServedModel:
        """Describe the model that is served: what the pipeline computes with, and what callers may see."""
        transformer, vae = self.pipeline.transformer.config, self.pipeline.vae.config
        scale_factor = self.pipeline.vae_scale_factor
        unit = scale_factor * transformer.patch_size
        side = transformer.sample_size * scale_factor
        return ServedModel(
            name=options.name,
            default_width=side,
            default_height=side,
            default_num_inference_steps=self.defaults.num_inference_steps,
            default_guidance_scale=self.defaults.guidance_scale,
            pixel_unit=unit,
            min_size=max(unit, side // 4),
            max_size=transformer.pos_embed_max_size * unit,
            max_batch_size=options.max_batch_size,
            vae_scale_factor=scale_factor,
            latent_channels=transformer.in_channels,
            scaling_factor=vae.scaling_factor,
            shift_factor=vae.shift_factor or 0.0,
            patch_size=transformer.patch_size,
            joint_attention_dim=transformer.joint_attention_dim,
            pooled_projection_dim=transformer.pooled_projection_dim,
            text_encoders=self.text_encoders(),
            scheduler=_plain(self.pipeline.scheduler.config),
            samplers=samplers.available(self.pipeline.scheduler.config),
            preview_factors=fit_preview_factors(self._encode_images, scale_factor).tolist(),
            skip_layer_guidance=self.defaults.skip_layer_guidance,
        )

    @torch.no_grad()
    def generate(self, request: ResolvedRequest, pipeline: Pipeline) -> NDArray[np.uint8]:
        """Generate one image, UINT8 ``(height, width, 3)``, by diffusers; ``pipeline`` may help to encode prompts."""
        arguments: dict[str, Any] = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        if self.pipeline.text_encoder is None or self.pipeline.text_encoder_2 is None:
            # diffusers cannot encode without both CLIPs, so it is given the embeddings.
            positive, negative = pipeline.encode(request.prompt), pipeline.encode(request.negative_prompt)
            arguments = {
                "prompt_embeds": torch.from_numpy(positive.prompt_embeds[None]),
                "negative_prompt_embeds": torch.from_numpy(negative.prompt_embeds[None]),
                "pooled_prompt_embeds": torch.from_numpy(positive.pooled[None]),
                "negative_pooled_prompt_embeds": torch.from_numpy(negative.pooled[None]),
            }
        if skipping := self.defaults.skip_layer_guidance:
            arguments |= {
                "skip_guidance_layers": list(skipping.layers),
                "skip_layer_guidance_scale": skipping.scale,
                "skip_layer_guidance_start": skipping.start,
                "skip_layer_guidance_stop": skipping.stop,
            }
        image: NDArray[np.float32] = self.pipeline(
            **arguments,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            max_sequence_length=pipeline.served.text_encoders[-1].tokens,
            output_type="np",
        ).images[0]
        pixels: NDArray[np.float32] = np.rint(image * 255.0)
        return pixels.astype(np.uint8)

    def text_encoders(self) -> list[TextEncoder]:
        """Describe all three; an absent one keeps its place with the size the transformer expects of it."""
        pooled = self.pipeline.transformer.config.pooled_projection_dim
        known = sum(self._projection_dim(c) for c, _, kind in _ENCODERS if kind == "clip")
        return [self._text_encoder(*names, missing_projection=pooled - known) for names in _ENCODERS]

    @torch.no_grad()
    def _encode_images(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode images ``(n, 3, height, width)`` in -1..1 to the latents the transformer sees."""
        vae = self.pipeline.vae
        latents = vae.encode(torch.from_numpy(images)).latent_dist.mode()
        scaled: NDArray[np.float32] = ((latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor).numpy()
        return scaled

    def _text_encoder_component(self, encoder: TextEncoder) -> Component:
        model = getattr(self.pipeline, encoder.component)
        inputs = (TensorSpec("input_ids", torch.int64, ("sequence",)),)
        outputs = [TensorSpec("prompt_embeds", torch.float32, ("sequence", encoder.hidden_size))]
        if encoder.kind == "clip":
            outputs.append(TensorSpec("pooled_prompt_embeds", torch.float32, (encoder.projection_dim,)))
        module = Clip(model) if encoder.kind == "clip" else T5(model)
        return Component(encoder.component, module, inputs, tuple(outputs), model.config.vocab_size, encoder.tokens)

    def _projection_dim(self, component: str) -> int:
        model = getattr(self.pipeline, component)
        return int(model.config.projection_dim) if model is not None else 0

    def _text_encoder(self, component: str, tokenizer: str, kind: str, missing_projection: int) -> TextEncoder:
        model = getattr(self.pipeline, component)
        if model is None:
            # SD3's CLIP towers are as wide as their projection. A second absent tower has nothing left to fill.
            width = missing_projection if kind == "clip" else self.pipeline.transformer.config.joint_attention_dim
            if kind == "clip" and component == "text_encoder_2" and self.pipeline.text_encoder is None:
                width = 0
            projection = width if kind == "clip" else 0
        else:
            width = model.config.hidden_size
            projection = self._projection_dim(component) if kind == "clip" else 0
        return TextEncoder(
            component=component,
            tokenizer=tokenizer,
            kind=kind,
            tokens=self._tokens(kind),
            hidden_size=width,
            projection_dim=projection,
            present=model is not None,
        )

    def _tokens(self, kind: str) -> int:
        if kind == "clip":
            # The pipeline pads both CLIP prompts to the first tokenizer's length.
            tokenizer = self.pipeline.tokenizer or self.pipeline.tokenizer_2
            return tokenizer.model_max_length if tokenizer is not None else _CLIP_TOKENS
        tokenizer = self.pipeline.tokenizer_3
        return min(_MAX_T5_TOKENS, tokenizer.model_max_length) if tokenizer is not None else _MAX_T5_TOKENS


def load(folder: Path, source: str, *, low_memory: bool = False, drop: Sequence[str] = ()) -> SD3Checkpoint:
    """Load a diffusers folder that came from ``source``.

    ``low_memory`` leaves the weights of the large components on the disk; ``drop`` leaves out text encoders. Raises
    ``ModelRejected`` if it holds pickled weights where safetensors are needed, or asks for a scheduler that is not
    supported.
    """
    listed = checkpoint_info.model_index(folder)
    # diffusers insists on being told that a component is absent.
    optional = [part for encoder in _ENCODERS for part in encoder[:2]]
    absent = {part: None for part in optional if listed.get(part) in (None, [None, None])}
    for encoder in drop:
        absent |= {encoder: None, encoder.replace("text_encoder", "tokenizer"): None}
    described = {part: large.described(folder, part) for part in large.COMPONENTS if low_memory and part not in absent}
    try:
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, **absent, **described
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelRejected(f"the checkpoint cannot be read: {_first_line(error)}") from error
    _check_scheduler(pipeline)
    defaults = checkpoint_info.defaults(folder, source)
    _check_skip_layers(defaults, pipeline)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(requires_grad=False)
    pipeline.set_progress_bar_config(disable=True)
    return SD3Checkpoint(
        folder=folder,
        pipeline=pipeline,
        source=Path(source).name if Path(source).is_dir() else source,
        licence=checkpoint_info.licence(folder),
        defaults=defaults,
    )


def _check_skip_layers(defaults: Defaults, pipeline: StableDiffusion3Pipeline) -> None:
    # The last block gives no text states back, so there is nothing to keep in its place.
    count = len(pipeline.transformer.transformer_blocks) - 1
    skipping = defaults.skip_layer_guidance
    if skipping is not None and not all(0 <= layer < count for layer in skipping.layers):
        raise ModelRejected(f"skip_layer_guidance: layers must be from 0 to {count - 1}, are {skipping.layers}")


def _check_scheduler(pipeline: StableDiffusion3Pipeline) -> None:
    if not isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler):
        raise ModelRejected(f"the scheduler {type(pipeline.scheduler).__name__} is not supported")
    try:
        samplers.available(pipeline.scheduler.config)
    except ValueError as error:
        raise ModelRejected(str(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _plain(config: Any) -> dict[str, Any]:
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}
