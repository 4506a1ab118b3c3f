"""What callers may know about a model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

# The parameter of a text-to-image model's Triton configuration that holds its ``ModelInfo`` as JSON.
MODEL_INFO_PARAMETER = "aquatint_model"


class ModelInfo(BaseModel):
    """A model's name, its defaults, the image sizes it generates, in pixels, and its samplers, the default first."""

    # A newer server may say more than an older client knows.
    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    default_width: int
    default_height: int
    default_num_inference_steps: int
    default_guidance_scale: float
    pixel_unit: int
    min_size: int
    max_size: int
    samplers: tuple[str, ...] = ("euler",)
