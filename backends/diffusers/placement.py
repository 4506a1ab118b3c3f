"""Where a pipeline runs and in which precision: chosen for the user, with the reason."""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aquatint.errors import InvalidRequest

Dtype = Literal["auto", "bfloat16", "float16", "float32", "native"]


class PlacementSettings(BaseSettings):
    """Precision and memory, by the variables of the demo this grew from."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True)

    dtype: Dtype = Field(default="auto", validation_alias="DTYPE")
    low_cpu_mem: bool = Field(default=True, validation_alias="ENABLE_LOW_CPU_MEM")
    attention_slicing: bool = Field(default=False, validation_alias="ENABLE_ATTENTION_SLICING")
    vae_slicing: bool = Field(default=False, validation_alias="ENABLE_VAE_SLICING")
    vae_tiling: bool = Field(default=False, validation_alias="ENABLE_VAE_TILING")
    cpu_offload: bool = Field(default=False, validation_alias="ENABLE_CPU_OFFLOAD")


def choose_device() -> tuple[str, str]:
    """The device and why."""
    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "mps", "no CUDA device; Apple's GPU is there"
    return "cpu", "no CUDA device and no Apple GPU"


def choose_dtype(wanted: Dtype, device: str) -> tuple[torch.dtype | None, str]:
    """The dtype to load weights in and why; ``None`` keeps what is stored. Raises ``InvalidRequest``."""
    if wanted == "native":
        return None, "DTYPE=native: as stored in the checkpoint"
    if wanted != "auto":
        if wanted == "float16" and device == "cpu":
            raise InvalidRequest("DTYPE: float16 is not usable on a CPU; take float32, bfloat16 or auto")
        return getattr(torch, wanted), f"DTYPE={wanted}"
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "auto: this GPU computes bfloat16 natively, and it cannot overflow like float16"
        return torch.float16, "auto: this GPU has no bfloat16"
    if device == "mps":
        return torch.float16, "auto: Apple's GPU is fastest in float16"
    return torch.float32, "auto: CPUs compute float32 fastest and most exactly"


def place(pipeline: DiffusionPipeline, settings: PlacementSettings, device: str) -> list[str]:
    """Move the pipeline to its device and turn on what saves memory; returns what was done, in words.

    Offloading moves parts to the GPU by itself, so it and ``to(device)`` exclude each other.
    """
    done = []
    if settings.cpu_offload and device != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
        done.append("parts wait in CPU memory and visit the device in turn")
    else:
        pipeline.to(device)
    vae: Any = getattr(pipeline, "vae", None)
    if settings.attention_slicing:
        pipeline.enable_attention_slicing()
        done.append("attention in slices")
    if settings.vae_slicing and vae is not None:
        vae.enable_slicing()
        done.append("VAE one picture at a time")
    if settings.vae_tiling and vae is not None:
        vae.enable_tiling()
        done.append("VAE in tiles")
    return done
