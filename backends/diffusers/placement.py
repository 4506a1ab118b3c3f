"""Choose where a pipeline runs and in which precision, with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import is_accelerate_available
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aquatint.contract.errors import InvalidRequest

_log = logging.getLogger("aquatint.diffusers")

Dtype = Literal["auto", "bfloat16", "float16", "float32", "native"]


class PlacementSettings(BaseSettings):
    """Precision and memory, named as in the demo that this grew from."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, use_attribute_docstrings=True)

    dtype: Dtype = Field(default="auto", validation_alias="DTYPE")
    """Precision of the weights; the log says what ``auto`` chose and why."""
    low_cpu_mem: bool = Field(default=True, validation_alias="ENABLE_LOW_CPU_MEM")
    """Load weights without a second copy in memory."""
    attention_slicing: bool = Field(default=False, validation_alias="ENABLE_ATTENTION_SLICING")
    """Compute attention in slices: less memory, slower."""
    vae_slicing: bool = Field(default=False, validation_alias="ENABLE_VAE_SLICING")
    """Decode images one at a time."""
    vae_tiling: bool = Field(default=False, validation_alias="ENABLE_VAE_TILING")
    """Decode an image tile by tile."""
    cpu_offload: bool = Field(default=False, validation_alias="ENABLE_CPU_OFFLOAD")
    """Keep components in host memory while they are not used."""


def choose_device() -> tuple[str, str]:
    """Choose the device; return it and why."""
    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "mps", "no CUDA device, but Apple's GPU"
    return "cpu", "no CUDA device and no Apple GPU"


def choose_dtype(wanted: Dtype, device: str) -> tuple[torch.dtype | None, str]:
    """Choose the dtype of the weights; return it and why. ``None`` keeps the stored one. Raises ``InvalidRequest``."""
    if wanted == "native":
        return None, "DTYPE=native: as stored in the checkpoint"
    if wanted != "auto":
        if wanted == "float16" and device == "cpu":
            raise InvalidRequest("DTYPE: float16 is not usable on a CPU; use float32, bfloat16 or auto")
        return getattr(torch, wanted), f"DTYPE={wanted}"
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "auto: this GPU computes bfloat16 natively, and it cannot overflow like float16"
        return torch.float16, "auto: this GPU has no bfloat16"
    if device == "mps":
        return torch.float16, "auto: Apple's GPU is fastest in float16"
    return torch.float32, "auto: CPUs compute float32 fastest and most exactly"


def place(pipeline: DiffusionPipeline, settings: PlacementSettings, device: str) -> list[str]:
    """Move the pipeline to its device and turn on what saves memory; return what was done, in words.

    An option that does nothing for this pipeline is not returned, but logged by its name, with the reason.
    """
    # Offloading moves parts to the device by itself and excludes ``to(device)``.
    if not (settings.cpu_offload and device != "cpu"):
        pipeline.to(device)
    done = []
    for field, turn_on in _SWITCHES.items():
        if getattr(settings, field):
            works, words = turn_on(pipeline, device)
            if works:
                done.append(words)
            else:
                _log.warning("%s does nothing here: %s", PlacementSettings.model_fields[field].validation_alias, words)
    return done


# Each function turns one option on and returns whether it has an effect, and which one or why not.
def _load_into_empty_parts(_: DiffusionPipeline, __: str) -> tuple[bool, str]:
    # The loader has done it; parts from transformers are always loaded so.
    if not is_accelerate_available():
        return False, "it needs accelerate, which is not installed"
    return True, "weights loaded without a second copy"


def _offload(pipeline: DiffusionPipeline, device: str) -> tuple[bool, str]:
    if device == "cpu":
        return False, "there is no accelerator to move parts to and from"
    pipeline.enable_model_cpu_offload(device=device)
    return True, "parts wait in CPU memory and visit the device in turn"


def _slice_attention(pipeline: DiffusionPipeline, _: str) -> tuple[bool, str]:
    # diffusers calls this method on every part that has it, which only UNets do, and says nothing if none has.
    if not any(hasattr(part, "set_attention_slice") for part in pipeline.components.values()):
        return False, (
            f"no part of a {type(pipeline).__name__} computes attention in slices; "
            "PyTorch's attention does not need the large matrix that slices would make smaller"
        )
    pipeline.enable_attention_slicing()
    return True, "attention in slices"


def _slice_vae(pipeline: DiffusionPipeline, _: str) -> tuple[bool, str]:
    vae: Any = getattr(pipeline, "vae", None)
    if not hasattr(vae, "use_slicing"):
        return False, f"{_named(vae)} cannot decode one image at a time"
    vae.enable_slicing()
    return True, "VAE one image at a time where a request has several"


def _tile_vae(pipeline: DiffusionPipeline, _: str) -> tuple[bool, str]:
    vae: Any = getattr(pipeline, "vae", None)
    if not hasattr(vae, "use_tiling"):
        return False, f"{_named(vae)} cannot decode in tiles"
    vae.enable_tiling()
    return True, "VAE in tiles"


def _named(vae: Any) -> str:
    return "this pipeline has no VAE and" if vae is None else f"its VAE, {type(vae).__name__},"


_SWITCHES: dict[str, Callable[[DiffusionPipeline, str], tuple[bool, str]]] = {
    "low_cpu_mem": _load_into_empty_parts,
    "cpu_offload": _offload,
    "attention_slicing": _slice_attention,
    "vae_slicing": _slice_vae,
    "vae_tiling": _tile_vae,
}
