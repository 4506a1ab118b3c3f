"""What a diffusers checkpoint says about itself in its JSON files, read without torch or its weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from aquatint.contract.errors import ModelRejected
from aquatint.contract.model_info import ModelInfo
from aquatint.diffusion import samplers
from aquatint.diffusion.served_model import SkipLayerGuidance

DEFAULTS_FILE = "aquatint.json"
_INDEX = "model_index.json"
_FLOW_MATCHING = "FlowMatchEulerDiscreteScheduler"
_DEFAULT_VAE_SCALE = 8
_DEFAULT_SAMPLE_SIZE = 64


class Defaults(BaseModel):
    """A model's own sampling defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_inference_steps: int = 28
    guidance_scale: float = 4.5
    skip_layer_guidance: SkipLayerGuidance | None = None


# The settings that the model cards on the hub recommend, by the last part of the models' names. Turbo is distilled to
# generate in four steps without guidance.
_PUBLISHED = {
    "stable-diffusion-3.5-large-turbo": Defaults(num_inference_steps=4, guidance_scale=0.0),
    "stable-diffusion-3.5-large": Defaults(num_inference_steps=28, guidance_scale=3.5),
    "stable-diffusion-3.5-medium": Defaults(
        num_inference_steps=40, guidance_scale=4.5, skip_layer_guidance=SkipLayerGuidance()
    ),
    "stable-diffusion-3-medium-diffusers": Defaults(num_inference_steps=28, guidance_scale=7.0),
    "stable-diffusion-xl-base-1.0": Defaults(num_inference_steps=50, guidance_scale=5.0),
    "stable-diffusion-v1-5": Defaults(num_inference_steps=50, guidance_scale=7.5),
}


def defaults(folder: Path, source: str) -> Defaults:
    """Read ``aquatint.json`` in the checkpoint, else take the published defaults of a model of that name, else SD3's.

    Raises ``ModelRejected`` if the file is not valid.
    """
    path = folder / DEFAULTS_FILE
    if not path.is_file():
        return _PUBLISHED.get(source.rstrip("/").rsplit("/", maxsplit=1)[-1].lower(), Defaults())
    try:
        return Defaults.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ModelRejected(f"{DEFAULTS_FILE} is not valid: {error.errors()[0]['msg']}") from error


def model_index(folder: Path) -> dict[str, Any]:
    """Read ``model_index.json``. Raises ``ModelRejected`` if there is none."""
    path = folder / _INDEX
    if not path.is_file():
        raise ModelRejected(f"this folder has no {_INDEX}: it is not a diffusers checkpoint")
    index: dict[str, Any] = json.loads(path.read_text())
    return index


def licence(folder: Path) -> str:
    """Read the licence from the metadata of the model card, a ``license:`` line between two ``---`` lines."""
    card = folder / "README.md"
    if card.is_file() and card.read_text().startswith("---\n"):
        metadata = card.read_text().split("---\n")[1]
        found = re.search(r"^license:\s*[\"']?([^\"'\n]+)", metadata, re.MULTILINE)
        return found[1].strip() if found else "unknown"
    return "unknown"


def model_info(folder: Path, source: str, name: str) -> ModelInfo:
    """Describe any text-to-image checkpoint, to be served as ``name``. Raises ``ModelRejected``."""
    model_index(folder)
    denoiser = _config(folder, "transformer") or _config(folder, "unet")
    if denoiser is None:
        raise ModelRejected("this checkpoint has neither a transformer nor a unet")
    vae = _config(folder, "vae") or {}
    scale = 2 ** (len(vae["block_out_channels"]) - 1) if "block_out_channels" in vae else _DEFAULT_VAE_SCALE
    unit = scale * int(denoiser.get("patch_size", 1))
    sample_size = denoiser.get("sample_size") or _DEFAULT_SAMPLE_SIZE
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    side = max(height, width) * scale
    own = defaults(folder, source)
    return ModelInfo(
        name=name,
        default_width=width * scale,
        default_height=height * scale,
        default_num_inference_steps=own.num_inference_steps,
        default_guidance_scale=own.guidance_scale,
        pixel_unit=unit,
        min_size=max(unit, side // 4),
        max_size=int(denoiser["pos_embed_max_size"]) * unit if "pos_embed_max_size" in denoiser else side * 2,
        samplers=_samplers(folder),
    )


def _samplers(folder: Path) -> tuple[str, ...]:
    """List the samplers that a request may choose; none if the checkpoint's scheduler is not for flow matching."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    if config.get("_class_name") != _FLOW_MATCHING:
        return ()
    try:
        return samplers.available(config)
    # diffusers supports options that our samplers do not.
    except ValueError:
        return ()


def _config(folder: Path, component: str) -> dict[str, Any] | None:
    path = folder / component / "config.json"
    if not path.is_file():
        return None
    config: dict[str, Any] = json.loads(path.read_text())
    return config
