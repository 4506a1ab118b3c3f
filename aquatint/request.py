"""The request contract: every entrance validates with ``GenerationRequest`` and ``resolve``."""

from __future__ import annotations

import math
import secrets
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from aquatint.errors import InvalidRequest, from_validation
from aquatint.served_model import ModelInfo

MAX_PROMPT_BYTES = 4096
MAX_SEED = 2**63 - 1
MAX_STEPS = 150
MAX_GUIDANCE_SCALE = 30.0
MAX_IMAGES = 10


class GenerationRequest(BaseModel):
    """What a caller asks for. ``None`` means the model's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    negative_prompt: str = ""
    num_inference_steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(default=None, ge=0.0, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False)
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    num_images: int = Field(default=1, ge=1, le=MAX_IMAGES)
    preview_every: int = Field(default=0, ge=0)
    model: str | None = None

    @field_validator("prompt", "negative_prompt", mode="before")
    @classmethod
    def _clean_text(cls, value: Any) -> Any:
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError("must be UTF-8 text") from error
        if not isinstance(value, str):
            return value
        text = value.strip()
        try:
            length = len(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ValueError("must be UTF-8 text") from error
        if length > MAX_PROMPT_BYTES:
            raise ValueError(f"must be at most {MAX_PROMPT_BYTES} bytes of UTF-8, is {length}")
        return text

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value:
            raise ValueError("must not be empty")
        return value


class ResolvedRequest(BaseModel):
    """A request with every default filled in: the effective parameters, returned with the result."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    width: int
    height: int
    seed: int
    num_images: int
    preview_every: int
    model: str

    @property
    def uses_guidance(self) -> bool:
        """Whether classifier-free guidance runs: at a scale of 1 or less it would change nothing useful."""
        return self.guidance_scale > 1.0

    @property
    def seeds(self) -> list[int]:
        """One seed per image: image ``i`` uses ``seed + i``, wrapped to stay in range."""
        return [(self.seed + index) % (MAX_SEED + 1) for index in range(self.num_images)]


def parse(fields: dict[str, Any]) -> GenerationRequest:
    """Validate raw fields. Raises ``InvalidRequest`` naming every wrong field."""
    try:
        return GenerationRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error) from None


def resolve(request: GenerationRequest, info: ModelInfo) -> ResolvedRequest:
    """Fill in the model's defaults and a random seed, and check what depends on the model.

    Raises ``InvalidRequest`` for a size the model cannot draw or a preview interval beyond the steps.
    """
    width = _check_side("width", request.width or info.default_width, info)
    height = _check_side("height", request.height or info.default_height, info)
    steps = request.num_inference_steps or info.default_num_inference_steps
    if request.preview_every > steps:
        raise InvalidRequest(f"preview_every: must be at most num_inference_steps={steps}, is {request.preview_every}")
    scale = info.default_guidance_scale if request.guidance_scale is None else request.guidance_scale
    return ResolvedRequest(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=steps,
        guidance_scale=scale,
        width=width,
        height=height,
        seed=secrets.randbelow(2**32) if request.seed is None else request.seed,
        num_images=request.num_images,
        preview_every=request.preview_every,
        model=info.name,
    )


def _check_side(name: str, value: int, info: ModelInfo) -> int:
    unit, low, high = info.pixel_unit, info.min_size, info.max_size
    if value % unit or not low <= value <= high:
        low = math.ceil(low / unit) * unit
        raise InvalidRequest(f"{name}: must be a multiple of {unit} from {low} to {high}, is {value}")
    return value
