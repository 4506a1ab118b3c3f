"""Triton's ``generate`` endpoints and model configuration over an ``ImageGenerator``, for our HTTP client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from aquatint.contract import errors, wire
from aquatint.contract import request as requests
from aquatint.contract.errors import AquatintError, InvalidRequest
from aquatint.contract.generation import Event
from aquatint.contract.image_generator import ImageGenerator, find_model
from aquatint.contract.model_info import MODEL_INFO_PARAMETER
from aquatint.http.errors import ERROR_RESPONSES
from aquatint.http.event_stream import event_stream


class ModelParameter(BaseModel):
    """A value of a model configuration's ``parameters``."""

    string_value: str


class ModelConfig(BaseModel):
    """The part of Triton's model configuration that holds the model's defaults and limits."""

    name: str
    parameters: dict[str, ModelParameter]


class GenerateResponse(BaseModel):
    """The output tensors of a finished request; one with a single value is not a list. ``info`` is JSON."""

    info: str
    png: str | list[str]


class GenerateEvent(BaseModel):
    """The output tensors of one response of a stream; ``png`` is there when the response has images."""

    info: str
    png: str | list[str] | None = None


class TritonError(BaseModel):
    """A failure as Triton reports it: ``Name: message``."""

    error: str


_ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": TritonError, "description": "The request failed"}}


def triton_http(engine: ImageGenerator) -> APIRouter:
    """Route ``generate``, ``generate_stream`` and ``config`` under ``/v2/models``; generating fails as in Triton."""
    router = APIRouter(tags=["Triton"])

    @router.get("/v2/models/{model}/config", responses=ERROR_RESPONSES)
    async def config(model: str) -> ModelConfig:
        """Return the part of Triton's model configuration that holds the model's defaults and limits."""
        info = await find_model(engine, model)
        described = ModelParameter(string_value=info.model_dump_json())
        return ModelConfig(name=info.name, parameters={MODEL_INFO_PARAMETER: described})

    @router.post("/v2/models/{model}/generate", response_model=GenerateResponse, responses=_ERRORS)
    async def generate(model: str, request: Request) -> GenerateResponse | JSONResponse:
        """Generate and wait."""
        try:
            return GenerateResponse(**wire.to_json(await engine.generate(await _parsed(request, model))))
        except AquatintError as error:
            return _failed(error)

    @router.post(
        "/v2/models/{model}_stream/generate_stream",
        response_class=StreamingResponse,
        response_model=None,
        responses={**_ERRORS, 200: event_stream(GenerateEvent, TritonError)},
    )
    async def generate_stream(model: str, request: Request) -> JSONResponse | StreamingResponse:
        """Generate step by step, as server-sent events."""
        try:
            events = engine.stream(await _parsed(request, model))
            # The first event is awaited here, so that a refused request is answered with its status.
            first = await anext(events)
        except AquatintError as error:
            return _failed(error)
        return StreamingResponse(_server_sent(first, events), media_type="text/event-stream")

    return router


async def _parsed(request: Request, model: str) -> requests.GenerationRequest:
    try:
        fields = await request.json()
    except ValueError:
        raise InvalidRequest("request: must be JSON") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("request: must be a JSON object")
    return requests.parse({**fields, "model": model})


def _failed(error: AquatintError) -> JSONResponse:
    return JSONResponse({"error": errors.to_wire(error)}, errors.mapping(error).http)


async def _server_sent(first: Event, rest: AsyncGenerator[Event, None]) -> AsyncIterator[str]:
    async with contextlib.aclosing(rest):
        try:
            yield _sse(wire.to_json(first))
            async for event in rest:
                yield _sse(wire.to_json(event))
        # The status was sent long ago: whatever fails now must reach the client as an event.
        except Exception as error:
            yield _sse({"error": errors.to_wire(errors.internal(error))})


def _sse(fields: dict[str, Any]) -> str:
    return f"data: {json.dumps(fields)}\n\n"
