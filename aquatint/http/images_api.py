"""OpenAI's images API over an ``ImageGenerator``: ``/v1/images/generations``, streamed too, and ``/v1/models``."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from aquatint.contract import errors
from aquatint.contract import request as requests
from aquatint.contract.errors import InvalidRequest
from aquatint.contract.fields import model_fields
from aquatint.contract.generation import Event, Generation, Progress
from aquatint.contract.image import Image
from aquatint.contract.image_generator import ImageGenerator, find_model
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import MAX_STEPS, GenerationRequest
from aquatint.http.auth import Caller, CallerOf
from aquatint.http.errors import error_body
from aquatint.images import ImageStore
from aquatint.images import convert as picture
from aquatint.images.convert import Format

# Fields of the contract that OpenAI has under another name, or not as such.
_RENAMED_FIELDS = {"prompt", "model", "num_images", "width", "height", "preview_every"}
_OWN_FIELDS = [name for name in GenerationRequest.model_fields if name not in _RENAMED_FIELDS]
# Names that other servers of this API take.
_ALIASES = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
# Share of the model's own number of steps.
_QUALITY = {"low": 0.5, "medium": 1.0, "standard": 1.0, "auto": 1.0, "high": 1.5, "hd": 1.5}
# OpenAI's event types know fewer names of quality than its requests.
_EVENT_QUALITY = {"standard": "medium", "hd": "high"}


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
    # Of interest to OpenAI alone; taken so that its clients work unchanged.
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

    def as_request(self, info: ModelInfo) -> GenerationRequest:
        """The same in the request contract. Raises ``InvalidRequest``."""
        own = self.model_dump(include=set(_OWN_FIELDS))
        width, height = self._sides()
        steps = own["num_inference_steps"]
        if steps is None:
            steps = min(max(round(info.default_num_inference_steps * _QUALITY[self.quality]), 1), MAX_STEPS)
        # Evenly spaced, and none of them the finished picture.
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
    # OpenAI's fields, and those of the request contract that OpenAI has not.
    ImagesBody = create_model("ImagesBody", __base__=OpenAIFields, **model_fields(_OWN_FIELDS))


def images_api(engine: ImageGenerator, caller: CallerOf, store: ImageStore | None = None) -> APIRouter:
    """``POST /v1/images/generations`` and ``GET /v1/models``; ``response_format: url`` needs a store."""
    router = APIRouter(tags=["images API"])

    @router.post("/v1/images/generations", response_model=None)
    async def generations(body: ImagesBody, who: Caller = Depends(caller)) -> dict[str, Any] | StreamingResponse:
        """Generate; with ``stream`` as server-sent events."""
        if body.response_format == "url" and store is None:
            raise InvalidRequest("response_format: this server stores no images, ask for 'b64_json'")
        info = await find_model(engine, body.model)
        wanted = body.as_request(info)
        if body.stream:
            events = engine.stream(wanted)
            # The first event is awaited here, so that a refused request is answered with its status.
            first = await anext(events)
            sse = _server_sent(body, info, wanted, first, events)
            return StreamingResponse(sse, media_type="text/event-stream", headers=_SSE_HEADERS)
        generation = await engine.generate(wanted)
        return await _answer(body, generation, store, who)

    @router.get("/v1/models")
    async def models(_: Caller = Depends(caller)) -> dict[str, Any]:
        """OpenAI's list of models, and KServe V1's in the same answer."""
        known = await engine.models()
        return {"object": "list", "data": [_listed(info) for info in known], "models": [info.name for info in known]}

    @router.get("/v1/models/{model}")
    async def model(model: str, _: Caller = Depends(caller)) -> dict[str, Any]:
        """OpenAI's description of a model, and KServe V1's in the same answer."""
        info = await find_model(engine, model)
        return {**_listed(info), "name": info.name, "ready": await engine.is_ready(info.name)}

    return router


_SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def _listed(info: ModelInfo) -> dict[str, Any]:
    return {"id": info.name, "object": "model", "created": 0, "owned_by": "aquatint", "aquatint": info.model_dump()}


async def _answer(body: ImagesBody, generation: Generation, store: ImageStore | None, who: Caller) -> dict[str, Any]:
    data = []
    for image in generation.images:
        converted = picture.convert(image.png, body.output_format, body.output_compression)
        entry: dict[str, Any] = {"seed": image.seed}
        if body.response_format == "url" and store is not None:
            parameters = generation.parameters.of_one_image()
            stored = await store.put(
                converted, body.output_format, parameters=parameters, seed=image.seed, owner=who.name
            )
            entry["url"] = store.url(stored)
            entry["stored"] = "local" if stored.local else "store"
        else:
            entry["b64_json"] = base64.b64encode(converted).decode()
        data.append(entry)
    return {
        "created": int(time.time()),
        "data": data,
        **_described(body, generation.parameters.width, generation.parameters.height),
        "usage": _usage(generation),
        "parameters": generation.parameters.model_dump(exclude={"preview_every"}),
        "timings": generation.timings,
        "dropped_tokens": generation.dropped_tokens,
    }


def _described(body: ImagesBody, width: int, height: int) -> dict[str, Any]:
    quality = _EVENT_QUALITY.get(body.quality, body.quality)
    return {
        "background": "opaque",
        "output_format": body.output_format,
        "quality": quality,
        "size": f"{width}x{height}",
    }


def _usage(generation: Generation) -> dict[str, Any]:
    """OpenAI counts tokens; here an output token is one denoising step of one picture, and input is not counted."""
    steps = generation.parameters.num_inference_steps * len(generation.images)
    return {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": steps,
        "total_tokens": steps,
    }


async def _server_sent(
    body: ImagesBody,
    info: ModelInfo,
    wanted: GenerationRequest,
    first: Event,
    rest: AsyncGenerator[Event, None],
) -> AsyncIterator[str]:
    """Server-sent events: partial images as they come, one ``completed`` per picture, or an ``error``."""
    sent = 0
    async with contextlib.aclosing(rest):
        try:
            async for event in _prepended(first, rest):
                if isinstance(event, Generation):
                    for image in event.images:
                        yield _completed_event(body, event, image)
                elif event.previews and sent < body.partial_images:
                    yield _partial_event(body, event, wanted, info, sent)
                    sent += 1
        # The status was sent long ago: whatever fails now must reach the client as an event.
        except Exception as error:
            yield f"event: error\ndata: {json.dumps(error_body(errors.internal(error)))}\n\n"


async def _prepended(first: Event, rest: AsyncGenerator[Event, None]) -> AsyncIterator[Event]:
    yield first
    async for event in rest:
        yield event


def _partial_event(body: ImagesBody, step: Progress, wanted: GenerationRequest, info: ModelInfo, index: int) -> str:
    width, height = wanted.width or info.default_width, wanted.height or info.default_height
    preview = picture.convert(picture.resize(step.previews[0].png, width, height), body.output_format)
    return _sse(
        "image_generation.partial_image",
        {
            "b64_json": base64.b64encode(preview).decode(),
            "partial_image_index": index,
            **_described(body, width, height),
        },
    )


def _completed_event(body: ImagesBody, generation: Generation, image: Image) -> str:
    converted = picture.convert(image.png, body.output_format, body.output_compression)
    return _sse(
        "image_generation.completed",
        {
            "b64_json": base64.b64encode(converted).decode(),
            **_described(body, generation.parameters.width, generation.parameters.height),
            "usage": _usage(generation),
            "seed": image.seed,
        },
    )


def _sse(event: str, fields: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps({'type': event, 'created_at': int(time.time()), **fields})}\n\n"
