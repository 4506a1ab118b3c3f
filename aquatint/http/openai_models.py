"""Requests, responses and stream events of OpenAI's images API, with this project's further fields."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from aquatint.contract import request as requests
from aquatint.contract.errors import InvalidRequest
from aquatint.contract.fields import model_fields
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import MAX_STEPS, GenerationRequest
from aquatint.http.parameters import EffectiveParameters
from aquatint.images.convert import Format

# Fields of the contract that OpenAI's request has under another name or in another form.
_RENAMED_FIELDS = {"prompt", "model", "num_images", "width", "height", "preview_every"}
_OWN_FIELDS = [name for name in GenerationRequest.model_fields if name not in _RENAMED_FIELDS]
# Names that other servers of this API accept.
_ALIASES = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
# Share of the model's own number of steps.
_QUALITY = {"low": 0.5, "medium": 1.0, "standard": 1.0, "auto": 1.0, "high": 1.5, "hd": 1.5}
Quality = Literal["auto", "low", "medium", "high"]
# OpenAI's answers have fewer names of quality than its requests.
_ANSWERED: dict[str, Quality] = {
    "auto": "auto",
    "low": "low",
    "medium": "medium",
    "standard": "medium",
    "high": "high",
    "hd": "high",
}


class OpenAIFields(BaseModel):
    """The fields of OpenAI's request, some of which have another name in the request contract."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    n: int = 1
    size: str = "auto"
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Format = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = 90
    background: Literal["auto", "opaque"] = "auto"
    # They mean something to OpenAI alone; accepted so that its clients work unchanged.
    moderation: Literal["auto", "low"] | None = None
    style: Literal["vivid", "natural"] | None = None
    user: str | None = None
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, fields: Any) -> Any:
        return (
            {_ALIASES.get(name, name): value for name, value in fields.items()} if isinstance(fields, dict) else fields
        )

    @property
    def answered_quality(self) -> Quality:
        """The quality as answers name it."""
        return _ANSWERED[self.quality]

    def as_request(self, info: ModelInfo) -> GenerationRequest:
        """Translate to the request contract. Raises ``InvalidRequest``."""
        own = self.model_dump(include=set(_OWN_FIELDS))
        width, height = self._sides()
        steps = own["num_inference_steps"]
        if steps is None:
            steps = min(max(round(info.default_num_inference_steps * _QUALITY[self.quality]), 1), MAX_STEPS)
        # Evenly spaced, and none of them the finished image.
        every = steps // (self.partial_images + 1) if self.stream and self.partial_images else 0
        return requests.parse(
            {
                **own,
                "prompt": self.prompt,
                "num_inference_steps": steps,
                "width": width,
                "height": height,
                "num_images": self.n,
                "preview_every": every,
                "model": info.name,
            }
        )

    def _sides(self) -> tuple[int | None, int | None]:
        if self.size == "auto":
            return None, None
        match = _SIZE.fullmatch(self.size)
        if match is None:
            raise InvalidRequest("size: must be 'auto' or WIDTHxHEIGHT")
        return int(match[1]), int(match[2])


if TYPE_CHECKING:
    ImagesBody = OpenAIFields
else:
    # OpenAI's fields, and those of the request contract that OpenAI lacks.
    ImagesBody = create_model("ImagesBody", __base__=OpenAIFields, **model_fields(_OWN_FIELDS))


class InputTokens(BaseModel):
    """Always 0: prompts are not counted."""

    image_tokens: int = 0
    text_tokens: int = 0


class ImageUsage(BaseModel):
    """OpenAI counts tokens; here an output token is one denoising step of one image."""

    input_tokens: int = 0
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int
    total_tokens: int


class InlineImage(BaseModel):
    """An image in base64, for ``response_format: b64_json``."""

    seed: int | None
    b64_json: str


class LinkedImage(BaseModel):
    """A stored image, for ``response_format: url``; ``stored`` is ``local`` while the object store fails."""

    seed: int | None
    url: str
    stored: Literal["local", "store"]


class ImagesResponse(BaseModel):
    """The images of one request. ``timings`` are seconds per stage on the server."""

    created: int
    data: list[InlineImage | LinkedImage]
    background: Literal["opaque"] = "opaque"
    output_format: Format
    quality: Quality
    size: str
    usage: ImageUsage
    parameters: EffectiveParameters
    timings: dict[str, float]
    dropped_tokens: int


class PartialImageEvent(BaseModel):
    """A preview, enlarged to the size of the finished image."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    created_at: int
    b64_json: str
    partial_image_index: int
    background: Literal["opaque"] = "opaque"
    output_format: Format
    quality: Quality
    size: str


class CompletedImageEvent(BaseModel):
    """A finished image."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    created_at: int
    b64_json: str
    background: Literal["opaque"] = "opaque"
    output_format: Format
    quality: Quality
    size: str
    usage: ImageUsage
    seed: int | None


class Model(BaseModel):
    """OpenAI's description of a model, and ours in ``aquatint``."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["aquatint"] = "aquatint"
    aquatint: ModelInfo


class ModelStatus(Model):
    """OpenAI's description of a model and KServe V1's in one."""

    name: str
    ready: bool


class ModelList(BaseModel):
    """OpenAI's list of models and KServe V1's in one."""

    object: Literal["list"] = "list"
    data: list[Model]
    models: list[str]
