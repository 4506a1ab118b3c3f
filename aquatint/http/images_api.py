"""OpenAI's images API over an ``ImageGenerator``: ``/v1/images/generations``, streamed too, and ``/v1/models``."""

import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from aquatint.contract import errors
from aquatint.contract.errors import InvalidRequest
from aquatint.contract.generation import Event, Generation, Progress
from aquatint.contract.image import Image
from aquatint.contract.image_generator import ImageGenerator, find_model
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import GenerationRequest
from aquatint.http.auth import Caller, CallerOf
from aquatint.http.errors import ERROR_RESPONSES, ErrorResponse, error_body
from aquatint.http.event_stream import event_stream
from aquatint.http.openai_models import (
    CompletedImageEvent,
    ImagesBody,
    ImagesResponse,
    ImageUsage,
    InlineImage,
    LinkedImage,
    Model,
    ModelList,
    ModelStatus,
    PartialImageEvent,
)
from aquatint.http.parameters import EffectiveParameters
from aquatint.images import ImageStore, convert

_SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_GENERATED = {
    **event_stream(PartialImageEvent, CompletedImageEvent, ErrorResponse),
    "description": "The images; with ``stream`` as server-sent events named after their ``type``, or ``error``",
}


def images_api(engine: ImageGenerator, caller: CallerOf, store: ImageStore | None = None) -> APIRouter:
    """Route ``POST /v1/images/generations`` and ``GET /v1/models``; ``response_format: url`` needs a store."""
    router = APIRouter(tags=["images API"], responses=ERROR_RESPONSES)
    # Annotations that name it are evaluated at once, which is why this module has no deferred ones.
    Who = Annotated[Caller, Depends(caller)]

    @router.post("/v1/images/generations", response_model=ImagesResponse, responses={200: _GENERATED})
    async def generations(body: ImagesBody, who: Who) -> ImagesResponse | StreamingResponse:
        """Generate images; with ``stream`` as server-sent events."""
        if body.response_format == "url" and store is None:
            raise InvalidRequest("response_format: this server stores no images, ask for 'b64_json'")
        info = await find_model(engine, body.model)
        wanted = body.as_request(info)
        if body.stream:
            events = engine.stream(wanted)
            # The first event is awaited here, so that a refused request is answered with its status.
            first = await anext(events)
            sse = _server_sent(_prepended(first, events), body, wanted, info=info)
            return StreamingResponse(sse, media_type="text/event-stream", headers=_SSE_HEADERS)
        generation = await engine.generate(wanted)
        if body.response_format == "url" and store is not None:
            return _response(body, generation, await _stored(body, generation, store, owner=who.name))
        return _response(body, generation, [_inline(body, image) for image in generation.images])

    @router.get("/v1/models")
    async def models(_: Who) -> ModelList:
        """List the models, for OpenAI's clients and KServe V1's."""
        known = await engine.models()
        data = [Model(id=info.name, aquatint=info) for info in known]
        return ModelList(data=data, models=[info.name for info in known])

    @router.get("/v1/models/{model}")
    async def model(model: str, _: Who) -> ModelStatus:
        """Describe a model, for OpenAI's clients and KServe V1's."""
        info = await find_model(engine, model)
        return ModelStatus(id=info.name, aquatint=info, name=info.name, ready=await engine.is_ready(info.name))

    return router


async def _stored(
    body: ImagesBody, generation: Generation, store: ImageStore, *, owner: str
) -> list[InlineImage | LinkedImage]:
    parameters = generation.parameters.of_one_image()
    links: list[InlineImage | LinkedImage] = []
    for image in generation.images:
        stored = await store.put(
            _converted(body, image), body.output_format, parameters=parameters, seed=image.seed, owner=owner
        )
        url = store.url(stored)
        links.append(LinkedImage(seed=image.seed, url=url, stored="local" if stored.local else "store"))
    return links


def _inline(body: ImagesBody, image: Image) -> InlineImage:
    return InlineImage(seed=image.seed, b64_json=base64.b64encode(_converted(body, image)).decode())


def _converted(body: ImagesBody, image: Image) -> bytes:
    return convert.convert(image.png, body.output_format, body.output_compression)


def _response(body: ImagesBody, generation: Generation, data: list[InlineImage | LinkedImage]) -> ImagesResponse:
    parameters = generation.parameters
    return ImagesResponse(
        created=int(time.time()),
        data=data,
        output_format=body.output_format,
        quality=body.answered_quality,
        size=f"{parameters.width}x{parameters.height}",
        usage=_usage(generation),
        parameters=EffectiveParameters.model_validate(parameters.model_dump()),
        timings=generation.timings,
        dropped_tokens=generation.dropped_tokens,
    )


def _usage(generation: Generation) -> ImageUsage:
    steps = generation.parameters.num_inference_steps * len(generation.images)
    return ImageUsage(output_tokens=steps, total_tokens=steps)


async def _server_sent(
    events: AsyncGenerator[Event, None], body: ImagesBody, wanted: GenerationRequest, *, info: ModelInfo
) -> AsyncIterator[str]:
    """Yield server-sent events: partial images as they come, one ``completed`` per image, or an ``error``."""
    sent = 0
    async with contextlib.aclosing(events):
        try:
            async for event in events:
                if isinstance(event, Generation):
                    for image in event.images:
                        yield _sse(_completed_event(body, event, image))
                elif event.previews and sent < body.partial_images:
                    size = wanted.width or info.default_width, wanted.height or info.default_height
                    yield _sse(_partial_event(body, event, size=size, index=sent))
                    sent += 1
        # The status was sent long ago: whatever fails now must reach the client as an event.
        except Exception as error:
            yield f"event: error\ndata: {json.dumps(error_body(errors.internal(error)).model_dump())}\n\n"


async def _prepended(first: Event, rest: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    async with contextlib.aclosing(rest):
        yield first
        async for event in rest:
            yield event


def _partial_event(body: ImagesBody, step: Progress, *, size: tuple[int, int], index: int) -> PartialImageEvent:
    preview = convert.convert(convert.resize(step.previews[0].png, *size), body.output_format)
    return PartialImageEvent(
        created_at=int(time.time()),
        b64_json=base64.b64encode(preview).decode(),
        partial_image_index=index,
        output_format=body.output_format,
        quality=body.answered_quality,
        size=f"{size[0]}x{size[1]}",
    )


def _completed_event(body: ImagesBody, generation: Generation, image: Image) -> CompletedImageEvent:
    return CompletedImageEvent(
        created_at=int(time.time()),
        b64_json=_inline(body, image).b64_json,
        output_format=body.output_format,
        quality=body.answered_quality,
        size=f"{generation.parameters.width}x{generation.parameters.height}",
        usage=_usage(generation),
        seed=image.seed,
    )


def _sse(event: PartialImageEvent | CompletedImageEvent) -> str:
    return f"event: {event.type}\ndata: {json.dumps(event.model_dump())}\n\n"
