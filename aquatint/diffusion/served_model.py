"""What generation needs to know about a model: written by the export, read where the model is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from aquatint.contract.errors import ModelRejected
from aquatint.contract.model_info import ModelInfo

FILE_NAME = "served_model.json"


class TextEncoder(BaseModel):
    """One text encoder of the model. ``tokens`` is the padded sequence length it is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    component: str
    tokenizer: str
    kind: str
    tokens: int
    hidden_size: int
    projection_dim: int
    present: bool = True


class SkipLayerGuidance(BaseModel):
    """Guidance away from what the transformer predicts without some of its layers, in an early part of the steps.

    diffusers' ``StableDiffusion3Pipeline`` has it as ``skip_guidance_layers`` and ``skip_layer_guidance_*``; its
    documentation recommends these values for SD3.5 Medium. ``start`` and ``stop`` are fractions of the steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: tuple[int, ...] = (7, 8, 9)
    scale: float = 2.8
    start: float = 0.01
    stop: float = 0.2

    def applies(self, step: int, total_steps: int) -> bool:
        """Return whether it is used in ``step``, counted from 0."""
        return total_steps * self.start < step < total_steps * self.stop


class ServedModel(ModelInfo):
    """Everything the pipeline computes with.

    ``preview_factors`` is ``(latent channels + 1, 3)``: RGB in 0..1 per latent pixel is ``[latents, 1] @ factors``.
    ``components`` is what the component models' names begin with, if not with the model's own name. ``layout`` is that
    of the repository: with another, it was exported by another version of Aquatint.
    """

    layout: Literal["denoiser"] = "denoiser"
    family: str = "sd3"
    max_batch_size: int
    vae_scale_factor: int
    latent_channels: int
    scaling_factor: float
    shift_factor: float
    patch_size: int
    joint_attention_dim: int
    pooled_projection_dim: int
    text_encoders: list[TextEncoder]
    scheduler: dict[str, Any]
    preview_factors: list[list[float]]
    skip_layer_guidance: SkipLayerGuidance | None = None
    components: str | None = None

    def triton_model(self, component: str) -> str:
        """Return the name of the Triton model that runs ``component``."""
        model = "denoiser" if component == "transformer" else component
        return f"{self.components or self.name}_{model}"

    def info(self) -> ModelInfo:
        """Return the part that callers may see."""
        return ModelInfo.model_validate(self.model_dump(include=set(ModelInfo.model_fields)))

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return the ``(channels, height, width)`` of an image's latents."""
        return self.latent_channels, height // self.vae_scale_factor, width // self.vae_scale_factor


def read(folder: Path) -> ServedModel:
    """Read ``served_model.json`` from a model's version folder.

    Raises ``ModelRejected`` if it is missing, not valid, or was written by a version that laid repositories out
    otherwise.
    """
    try:
        served = ServedModel.model_validate_json((folder / FILE_NAME).read_bytes())
    except FileNotFoundError:
        raise ModelRejected(f"{FILE_NAME} is missing in version {folder.name}") from None
    except ValidationError as error:
        raise ModelRejected(f"{FILE_NAME} is not valid: {error.errors()[0]['msg']}") from error
    if "layout" not in served.model_fields_set:
        raise ModelRejected("this model repository was exported by an earlier version of Aquatint: export it again")
    return served
