"""The request contract, and the one table of its fields.

The name, type, default, limits, help text and tensor type of a field are defined in ``GenerationRequest``
and nowhere else: ``fields`` derives tensors, Triton configurations, command-line options, the MCP tool's schema and the
images API's body from it, and every server validates with ``parse`` and ``resolve``.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, Unpack

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from aquatint.contract.errors import InvalidRequest, from_validation
from aquatint.contract.model_info import ModelInfo

MAX_PROMPT_BYTES = 4096
MAX_SEED = 2**63 - 1
MAX_STEPS = 150


@dataclass(frozen=True)
class TensorType:
    """A field's datatype in the Open Inference Protocol and in numpy; ``stream_only`` fields need a decoupled model."""

    datatype: str
    numpy: Any
    stream_only: bool = False

    @property
    def triton(self) -> str:
        """The datatype's name in a Triton model configuration."""
        return "TYPE_STRING" if self.datatype == "BYTES" else f"TYPE_{self.datatype}"


_BYTES = TensorType("BYTES", np.object_)
_FP32 = TensorType("FP32", np.float32)
_INT32 = TensorType("INT32", np.int32)
_INT64 = TensorType("INT64", np.int64)
_STREAM_INT32 = TensorType("INT32", np.int32, stream_only=True)


class GenerationRequest(BaseModel):
    """What a caller asks for. ``None`` means the model's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[str, _BYTES, Field(description="What should be seen, 1 to 4096 bytes of UTF-8.")]
    negative_prompt: Annotated[str, _BYTES, Field(description="What should not be seen.")] = ""
    num_inference_steps: Annotated[
        int | None, _INT32, Field(ge=1, le=MAX_STEPS, description="Denoising steps; the model's own by default.")
    ] = None
    guidance_scale: Annotated[
        float | None,
        _FP32,
        Field(
            ge=0.0,
            le=30.0,
            allow_inf_nan=False,
            description="How closely to follow the prompt; the model's own by default. 1 or less: not guided.",
        ),
    ] = None
    width: Annotated[int | None, _INT32, Field(ge=1, description="Pixels; the model's own by default.")] = None
    height: Annotated[int | None, _INT32, Field(ge=1, description="Pixels; the model's own by default.")] = None
    sampler: Annotated[
        str | None, _BYTES, Field(description="Sampling method, one of those the model lists; its own by default.")
    ] = None
    seed: Annotated[
        int | None, _INT64, Field(ge=0, le=MAX_SEED, description="Same seed, same image; random by default.")
    ] = None
    num_images: Annotated[int, _INT32, Field(ge=1, le=10, description="Number of images; image i uses seed + i.")] = 1
    preview_every: Annotated[int, _STREAM_INT32, Field(ge=0, description="Steps between previews; 0 for none.")] = 0
    model: Annotated[str | None, Field(description="The served model; the server's first by default.")] = None

    @field_validator("prompt", "negative_prompt", "sampler", mode="before")
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


class RequestFields(TypedDict, total=False):
    """The fields of ``GenerationRequest`` except the prompt, as keyword arguments for type checkers."""

    negative_prompt: str
    num_inference_steps: int | None
    guidance_scale: float | None
    width: int | None
    height: int | None
    sampler: str | None
    seed: int | None
    num_images: int
    preview_every: int
    model: str | None


class ResolvedRequest(GenerationRequest):
    """A request with every default filled in: the effective parameters, returned with the result."""

    # A newer server may know more fields than the client that reads its answer.
    model_config = ConfigDict(extra="ignore", frozen=True)

    num_inference_steps: int
    guidance_scale: float
    width: int
    height: int
    seed: int
    model: str

    @property
    def uses_guidance(self) -> bool:
        """Whether classifier-free guidance runs: at a scale of 1 or less it has no useful effect."""
        return self.guidance_scale > 1.0

    @property
    def seeds(self) -> list[int]:
        """One seed per image: image ``i`` uses ``seed + i``, wrapped to stay in range."""
        return [(self.seed + index) % (MAX_SEED + 1) for index in range(self.num_images)]

    def of_one_image(self) -> dict[str, Any]:
        """Return the parameters that generate one image again, except for its own seed."""
        return self.model_dump(exclude={"preview_every", "num_images"}, exclude_none=True)


def parse(fields: dict[str, Any]) -> GenerationRequest:
    """Validate raw fields. Raises ``InvalidRequest`` naming every wrong field."""
    try:
        return GenerationRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error) from None


def as_request(prompt: str | GenerationRequest, **fields: Unpack[RequestFields]) -> GenerationRequest:
    """Make a request from a prompt and fields, or change fields of one. Raises ``InvalidRequest``."""
    if isinstance(prompt, GenerationRequest):
        return parse({**prompt.model_dump(), **fields}) if fields else prompt
    return parse({"prompt": prompt, **fields})


def resolve(request: GenerationRequest, info: ModelInfo) -> ResolvedRequest:
    """Fill in the model's defaults and a random seed, and check what depends on the model.

    Raises ``InvalidRequest`` for a size the model cannot generate or a preview interval beyond the steps.
    """
    steps = request.num_inference_steps or info.default_num_inference_steps
    if request.preview_every > steps:
        raise InvalidRequest(f"preview_every: must be at most num_inference_steps={steps}, is {request.preview_every}")
    if request.sampler not in (None, *info.samplers):
        known = f"must be one of {', '.join(info.samplers)}" if info.samplers else "cannot be chosen for this model"
        raise InvalidRequest(f"sampler: {known}, is {request.sampler!r}")
    filled = {
        "num_inference_steps": steps,
        "guidance_scale": (info.default_guidance_scale if request.guidance_scale is None else request.guidance_scale),
        "width": _check_side("width", request.width or info.default_width, info),
        "height": _check_side("height", request.height or info.default_height, info),
        "seed": secrets.randbelow(2**32) if request.seed is None else request.seed,
        "model": info.name,
    }
    return ResolvedRequest(**{**request.model_dump(), **filled})


def _check_side(name: str, value: int, info: ModelInfo) -> int:
    unit, low, high = info.pixel_unit, info.min_size, info.max_size
    if value % unit or not low <= value <= high:
        low = math.ceil(low / unit) * unit
        raise InvalidRequest(f"{name}: must be a multiple of {unit} from {low} to {high}, is {value}")
    return value
