"""Read an SD3-family diffusers checkpoint: safetensors only, any text encoder may be absent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from huggingface_hub import snapshot_download
from numpy.typing import NDArray

from aquatint.contract.errors import ModelRejected
from aquatint.diffusion import samplers
from aquatint.diffusion.served_model import ServedModel, TextEncoder
from aquatint.repository import checkpoint_info
from aquatint.repository.checkpoint_info import Defaults
from aquatint_export import large

_ENCODERS = (
    ("text_encoder", "tokenizer", "clip"),
    ("text_encoder_2", "tokenizer_2", "clip"),
    ("text_encoder_3", "tokenizer_3", "t5"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# diffusers' own default for ``max_sequence_length``.
_MAX_T5_TOKENS = 256
_CLIP_TOKENS = 77


@dataclass(frozen=True)
class Checkpoint:
    """A loaded pipeline in FP32 on the CPU, and where it came from. Components ``apart`` have no weights yet."""

    folder: Path
    pipeline: StableDiffusion3Pipeline
    source: str
    licence: str
    defaults: Defaults
    apart: tuple[str, ...] = ()

    @property
    def skip_layers(self) -> tuple[int, ...]:
        """The transformer's layers that skip-layer guidance goes without; empty where there is none."""
        guidance = self.defaults.skip_layer_guidance
        return guidance.layers if guidance is not None else ()

    def served_model(self, name: str, max_batch_size: int, preview_factors: list[list[float]]) -> ServedModel:
        """The numbers a front needs to serve this checkpoint under ``name``."""
        transformer, vae = self.pipeline.transformer.config, self.pipeline.vae.config
        scale_factor = self.pipeline.vae_scale_factor
        unit = scale_factor * transformer.patch_size
        side = transformer.sample_size * scale_factor
        return ServedModel(
            name=name,
            default_width=side,
            default_height=side,
            default_num_inference_steps=self.defaults.num_inference_steps,
            default_guidance_scale=self.defaults.guidance_scale,
            pixel_unit=unit,
            min_size=max(unit, side // 4),
            max_size=transformer.pos_embed_max_size * unit,
            max_batch_size=max_batch_size,
            vae_scale_factor=scale_factor,
            latent_channels=transformer.in_channels,
            scaling_factor=vae.scaling_factor,
            shift_factor=vae.shift_factor or 0.0,
            patch_size=transformer.patch_size,
            joint_attention_dim=transformer.joint_attention_dim,
            pooled_projection_dim=transformer.pooled_projection_dim,
            text_encoders=self.text_encoders(),
            scheduler=_plain(self.pipeline.scheduler.config),
            preview_factors=preview_factors,
            skip_layer_guidance=self.defaults.skip_layer_guidance,
        )

    @torch.no_grad()
    def encode_picture(self, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pictures ``(n, 3, height, width)`` in -1..1 to the latents the transformer sees."""
        vae = self.pipeline.vae
        latents = vae.encode(torch.from_numpy(pictures)).latent_dist.mode()
        scaled: NDArray[np.float32] = ((latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor).numpy()
        return scaled

    def text_encoders(self) -> list[TextEncoder]:
        """All three text encoders; an absent one keeps its place with the size the transformer expects of it."""
        pooled = self.pipeline.transformer.config.pooled_projection_dim
        known = sum(self._projection_dim(c) for c, _, kind in _ENCODERS if kind == "clip")
        return [self._text_encoder(*names, missing_projection=pooled - known) for names in _ENCODERS]

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


def load(source: str, low_memory: bool = False, without: tuple[str, ...] = ()) -> Checkpoint:
    """Load a diffusers folder, or a hub id (token from ``HF_TOKEN``).

    ``low_memory`` leaves the weights of the large components on the disk; ``without`` drops text encoders. Raises
    ``ModelRejected`` if it is no SD3 pipeline, holds pickled weights where safetensors are needed, or asks for a
    scheduler we do not have.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = Path(snapshot_download(source, ignore_patterns=list(_PICKLES)))
    listed = checkpoint_info.model_index(folder)
    name = listed.get("_class_name")
    if name != "StableDiffusion3Pipeline":
        raise ModelRejected(f"only StableDiffusion3Pipeline checkpoints can be exported, this is {name}")
    # diffusers insists on being told that a component is absent.
    optional = [part for encoder in _ENCODERS for part in encoder[:2]]
    absent = {part: None for part in optional if listed.get(part) in (None, [None, None])}
    for encoder in without:
        absent |= {encoder: None, encoder.replace("text_encoder", "tokenizer"): None}
    apart = tuple(part for part in large.APART if low_memory and part not in absent)
    described = {part: large.described(folder, part) for part in apart}
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
            component.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return Checkpoint(
        folder,
        pipeline,
        Path(source).name if Path(source).is_dir() else source,
        checkpoint_info.licence(folder),
        defaults,
        apart,
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
