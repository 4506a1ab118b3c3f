"""Clients for asyncio; the same calls as the blocking ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol, Unpack

import grpc
import httpx
import tenacity
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from aquatint.client import _messages as messages
from aquatint.client._options import GRPC_CHANNEL, Options, with_seed
from aquatint.client._sync import http_error
from aquatint.client._trace import trace_headers
from aquatint.contract.errors import DeadlineExceeded, EngineUnavailable
from aquatint.contract.generation import Event, Generation
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import GenerationRequest, RequestFields, as_request

_STREAM_END_TIMEOUT_S = 5.0


class AsyncTransport(Protocol):
    """One way to reach a server."""

    async def close(self) -> None:
        """Close the connections."""

    async def is_ready(self, model: str) -> bool:
        """Return whether the model is ready."""

    async def describe(self, model: str) -> ModelInfo:
        """Fetch the model's name, defaults and limits. Raises ``AquatintError``."""

    async def generate(self, model: str, request: GenerationRequest, timeout_s: float) -> Generation:
        """Generate and wait; cancelling the task cancels it on the server. Raises ``AquatintError``."""

    def stream(self, model: str, request: GenerationRequest, timeout_s: float) -> AsyncGenerator[Event, None]:
        """Generate step by step; leaving the iterator cancels. Raises ``AquatintError``."""


class AsyncGrpcTransport:
    """Calls over Triton's gRPC protocol."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._client = tritonclient.grpc.aio.InferenceServerClient(options.url, channel_args=GRPC_CHANNEL)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def is_ready(self, model: str) -> bool:
        """Return whether the model is ready."""
        try:
            return bool(await self._client.is_model_ready(model))
        except InferenceServerException:
            return False

    async def describe(self, model: str) -> ModelInfo:
        """Fetch the model's name, defaults and limits. Raises ``AquatintError``."""
        try:
            answer = await self._client.get_model_config(model, as_json=True)
        except InferenceServerException as error:
            raise messages.from_triton(error) from None
        return messages.model_info(answer["config"].get("parameters", {}), model)

    async def generate(self, model: str, request: GenerationRequest, timeout_s: float) -> Generation:
        """Make one unary call; cancelling the task cancels it on the server."""
        try:
            result = await self._client.infer(**messages.unary_call(model, request, timeout_s), headers=trace_headers())
        except InferenceServerException as error:
            raise messages.from_triton(error) from None
        event = messages.parse_grpc(result)
        assert isinstance(event, Generation)
        return event

    async def stream(self, model: str, request: GenerationRequest, timeout_s: float) -> AsyncGenerator[Event, None]:
        """Make one call on a stream of its own; leaving the iterator cancels it on the server."""
        calls = _once(messages.stream_call(model, request, timeout_s))
        answers = self._client.stream_infer(calls, stream_timeout=timeout_s, headers=trace_headers())
        deadline = time.monotonic() + timeout_s
        finished = False
        try:
            while True:
                patience = min(self._options.stall_timeout_s, deadline - time.monotonic())
                try:
                    result, error = await asyncio.wait_for(anext(answers), max(patience, 0.0))
                except TimeoutError:
                    raise DeadlineExceeded(f"the server sent nothing for {max(patience, 0.0):.0f} s") from None
                except StopAsyncIteration:
                    raise EngineUnavailable("the server ended the stream without an image") from None
                if error is not None:
                    raise messages.from_triton(error)
                event = messages.parse_grpc(result)
                finished = isinstance(event, Generation)
                yield event
                if finished:
                    return
        except InferenceServerException as error:
            raise messages.from_triton(error) from None
        # Triton's client lets gRPC's own exception through when no stream can be opened.
        except grpc.aio.AioRpcError as error:
            status = InferenceServerException(msg=error.details() or "", status=str(error.code()))
            raise messages.from_triton(status) from None
        finally:
            # Triton 2.51 does not release every stream that is cancelled after its last answer (see the blocking
            # client), so this one is given time to end.
            if finished:
                with contextlib.suppress(TimeoutError, InferenceServerException, grpc.aio.AioRpcError):
                    await asyncio.wait_for(anext(answers, None), _STREAM_END_TIMEOUT_S)
            answers.cancel()


async def _once(call: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield call


class AsyncHttpTransport:
    """Calls over Triton's HTTP protocol, always streamed: only then does a disconnect reach the denoiser."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._client = httpx.AsyncClient(base_url=f"http://{options.url}")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def is_ready(self, model: str) -> bool:
        """Return whether the model is ready."""
        try:
            return (await self._client.get(f"/v2/models/{model}/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def describe(self, model: str) -> ModelInfo:
        """Fetch the model's name, defaults and limits. Raises ``AquatintError``."""
        try:
            response = await self._client.get(f"/v2/models/{model}/config")
        except httpx.TransportError as error:
            raise EngineUnavailable(f"the server cannot be reached: {type(error).__name__}") from None
        if response.is_error:
            raise http_error(response.status_code, response.content)
        return messages.model_info(response.json().get("parameters", {}), model)

    async def generate(self, model: str, request: GenerationRequest, timeout_s: float) -> Generation:
        """Return the last event of ``stream``."""
        async with contextlib.aclosing(self.stream(model, request, timeout_s)) as events:
            async for event in events:
                if isinstance(event, Generation):
                    return event
        raise EngineUnavailable("the server ended the stream without an image")

    async def stream(self, model: str, request: GenerationRequest, timeout_s: float) -> AsyncGenerator[Event, None]:
        """Make one ``generate_stream`` call; leaving the iterator cancels it on the server."""
        body = messages.request_fields(request, stream=True)
        limits = httpx.Timeout(min(self._options.stall_timeout_s, timeout_s))
        path = f"/v2/models/{model}_stream/generate_stream"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client.stream("POST", path, json=body, timeout=limits) as response,
            ):
                if response.is_error:
                    raise http_error(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        event = messages.parse_json(json.loads(line.removeprefix("data:")))
                        yield event
                        if isinstance(event, Generation):
                            return
        except (httpx.TimeoutException, TimeoutError):
            raise DeadlineExceeded("the server did not answer in time") from None
        except httpx.TransportError as error:
            raise EngineUnavailable(f"the server cannot be reached: {type(error).__name__}") from None
        raise EngineUnavailable("the server ended the stream without an image")


class AsyncClient:
    """Generates images on an Aquatint server. Use as an async context manager, or await ``close``."""

    def __init__(self, transport: AsyncTransport, options: Options) -> None:
        self._transport = transport
        self._options = options

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def is_ready(self, model: str | None = None) -> bool:
        """Return whether the model is ready to generate."""
        return await self._transport.is_ready(model or self._options.model)

    async def models(self) -> list[ModelInfo]:
        """Describe the configured models, the default first, as the server does; retried. Raises ``AquatintError``."""
        describe = tenacity.AsyncRetrying(**self._options.retrying(self._options.timeout_s)).wraps(
            self._transport.describe
        )
        return [await describe(model) for model in self._options.models]

    async def generate(
        self, prompt: str | GenerationRequest, /, *, timeout_s: float | None = None, **fields: Unpack[RequestFields]
    ) -> Generation:
        """Generate and wait: ``generate("a fox", seed=7)``, or a whole ``GenerationRequest``.

        Raises ``AquatintError``; overload and unavailability are retried within the deadline.
        """
        request = with_seed(as_request(prompt, **fields))
        timeout_s = timeout_s or self._options.timeout_s
        deadline = time.monotonic() + timeout_s
        model = request.model or self._options.model

        async def once() -> Generation:
            return await self._transport.generate(model, request, max(deadline - time.monotonic(), 0.001))

        return await tenacity.AsyncRetrying(**self._options.retrying(timeout_s))(once)

    async def stream(
        self, prompt: str | GenerationRequest, /, *, timeout_s: float | None = None, **fields: Unpack[RequestFields]
    ) -> AsyncGenerator[Event, None]:
        """Generate step by step: ``Progress`` events, then the ``Generation``. Retried only before the first event."""
        request = with_seed(as_request(prompt, **fields))
        timeout_s = timeout_s or self._options.timeout_s
        deadline = time.monotonic() + timeout_s
        model = request.model or self._options.model

        async def first() -> tuple[Event, AsyncGenerator[Event, None]]:
            events = self._transport.stream(model, request, max(deadline - time.monotonic(), 0.001))
            return await anext(events), events

        retrying = tenacity.AsyncRetrying(**self._options.retrying(timeout_s))
        event: Event
        rest: AsyncGenerator[Event, None]
        event, rest = await retrying(first)
        async with contextlib.aclosing(rest):
            yield event
            async for later in rest:
                yield later
