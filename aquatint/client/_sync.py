"""Blocking clients."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, Protocol, Unpack

import httpx
import tenacity
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from aquatint.client import _messages as messages
from aquatint.client._options import GRPC_CHANNEL, Options, with_seed
from aquatint.contract.errors import AquatintError, DeadlineExceeded, EngineUnavailable
from aquatint.contract.generation import Event, Generation
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import GenerationRequest, RequestFields, as_request


class Transport(Protocol):
    """One way to reach a server."""

    def close(self) -> None:
        """Close the connections."""

    def is_ready(self, model: str) -> bool:
        """Return whether the model is ready."""

    def describe(self, model: str) -> ModelInfo:
        """Fetch the model's name, defaults and limits. Raises ``AquatintError``."""

    def generate(self, model: str, request: GenerationRequest, timeout_s: float) -> Generation:
        """Generate and wait. Raises ``AquatintError``."""

    def stream(self, model: str, request: GenerationRequest, timeout_s: float) -> Iterator[Event]:
        """Generate step by step; leaving the iterator cancels. Raises ``AquatintError``."""


class GrpcTransport:
    """Calls over Triton's gRPC protocol."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._client = tritonclient.grpc.InferenceServerClient(options.url, channel_args=GRPC_CHANNEL)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def is_ready(self, model: str) -> bool:
        """Return whether the model is ready."""
        try:
            return bool(self._client.is_model_ready(model))
        except InferenceServerException:
            return False

    def describe(self, model: str) -> ModelInfo:
        """Fetch the model's name, defaults and limits."""
        try:
            answer = self._client.get_model_config(model, as_json=True)
        except InferenceServerException as error:
            raise messages.from_triton(error) from None
        return messages.model_info(answer["config"].get("parameters", {}), model)

    def generate(self, model: str, request: GenerationRequest, timeout_s: float) -> Generation:
        """Make one unary call; its deadline is the server's too."""
        try:
            result = self._client.infer(**messages.unary_call(model, request, timeout_s))
        except InferenceServerException as error:
            raise messages.from_triton(error) from None
        event = messages.parse_grpc(result)
        assert isinstance(event, Generation)
        return event

    def stream(self, model: str, request: GenerationRequest, timeout_s: float) -> Iterator[Event]:
        """Make one call on a stream of its own; leaving the iterator cancels it on the server."""
        answers: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = queue.SimpleQueue()
        deadline = time.monotonic() + timeout_s
        finished = False
        client = tritonclient.grpc.InferenceServerClient(self._options.url, channel_args=GRPC_CHANNEL)
        with closing(client):
            client.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=timeout_s)
            try:
                # A stream that has already failed refuses the call; the reason is among the answers.
                with suppress(InferenceServerException):
                    client.async_stream_infer(**messages.stream_call(model, request, timeout_s))
                for event in self._events(answers, deadline):
                    finished = isinstance(event, Generation)
                    yield event
            finally:
                # Triton 2.51 never releases one in ten streams that are cancelled after their last answer: the
                # model's version then stays loaded forever, and the request's trace is lost.
                client.stop_stream(cancel_requests=not finished)

    def _events(
        self, answers: queue.SimpleQueue[tuple[Any, InferenceServerException | None]], deadline: float
    ) -> Iterator[Event]:
        while True:
            # A server process that dies mid-stream sends nothing more, not even an error.
            patience = min(self._options.stall_timeout_s, deadline - time.monotonic())
            try:
                result, error = answers.get(timeout=max(patience, 0.0))
            except queue.Empty:
                raise DeadlineExceeded(f"the server sent nothing for {max(patience, 0.0):.0f} s") from None
            if error is not None:
                raise messages.from_triton(error)
            event = messages.parse_grpc(result)
            yield event
            if isinstance(event, Generation):
                return


class HttpTransport:
    """Calls over Triton's HTTP protocol, always streamed: only then does a disconnect reach the denoiser."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._client = httpx.Client(base_url=f"http://{options.url}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def is_ready(self, model: str) -> bool:
        """Return whether the model is ready."""
        try:
            return self._client.get(f"/v2/models/{model}/ready").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def describe(self, model: str) -> ModelInfo:
        """Fetch the model's name, defaults and limits."""
        try:
            response = self._client.get(f"/v2/models/{model}/config")
        except httpx.TransportError as error:
            raise EngineUnavailable(f"the server cannot be reached: {type(error).__name__}") from None
        if response.is_error:
            raise http_error(response.status_code, response.content)
        return messages.model_info(response.json().get("parameters", {}), model)

    def generate(self, model: str, request: GenerationRequest, timeout_s: float) -> Generation:
        """Return the last event of ``stream``."""
        *_, last = self.stream(model, request, timeout_s)
        assert isinstance(last, Generation)
        return last

    def stream(self, model: str, request: GenerationRequest, timeout_s: float) -> Iterator[Event]:
        """Make one ``generate_stream`` call; leaving the iterator cancels it on the server."""
        deadline = time.monotonic() + timeout_s
        body = messages.request_fields(request, stream=True)
        limits = httpx.Timeout(min(self._options.stall_timeout_s, timeout_s))
        try:
            with self._client.stream(
                "POST", f"/v2/models/{model}_stream/generate_stream", json=body, timeout=limits
            ) as response:
                if response.is_error:
                    raise http_error(response.status_code, response.read())
                yield from self._events(response.iter_lines(), deadline)
        except httpx.TimeoutException:
            raise DeadlineExceeded("the server did not answer in time") from None
        except httpx.TransportError as error:
            raise EngineUnavailable(f"the server cannot be reached: {type(error).__name__}") from None

    @staticmethod
    def _events(lines: Iterator[str], deadline: float) -> Iterator[Event]:
        for line in lines:
            if line.startswith("data:"):
                event = messages.parse_json(json.loads(line.removeprefix("data:")))
                yield event
                if isinstance(event, Generation):
                    return
            if time.monotonic() > deadline:
                raise DeadlineExceeded("the request's time ran out")
        raise EngineUnavailable("the server ended the stream without an image")


def http_error(status: int, body: bytes) -> AquatintError:
    """Return the error in a failed HTTP answer."""
    try:
        # Even before the first event, a stream's error arrives as an event.
        return messages.from_text(str(json.loads(body.removeprefix(b"data:"))["error"]))
    except (ValueError, KeyError, TypeError):
        return EngineUnavailable(f"the server answered with status {status}")


class Client:
    """Generates images on an Aquatint server. Use as a context manager, or call ``close``."""

    def __init__(self, transport: Transport, options: Options) -> None:
        self._transport = transport
        self._options = options

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def is_ready(self, model: str | None = None) -> bool:
        """Return whether the model is ready to generate."""
        return self._transport.is_ready(model or self._options.model)

    def models(self) -> list[ModelInfo]:
        """Describe the configured models, the default first, as the server does; retried. Raises ``AquatintError``."""
        describe = tenacity.Retrying(**self._options.retrying(self._options.timeout_s)).wraps(self._transport.describe)
        return [describe(model) for model in self._options.models]

    def generate(
        self, prompt: str | GenerationRequest, /, *, timeout_s: float | None = None, **fields: Unpack[RequestFields]
    ) -> Generation:
        """Generate and wait: ``generate("a fox", seed=7)``, or a whole ``GenerationRequest``.

        Raises ``AquatintError``; overload and unavailability are retried within the deadline.
        """
        request = with_seed(as_request(prompt, **fields))
        timeout_s = timeout_s or self._options.timeout_s
        deadline = time.monotonic() + timeout_s
        model = request.model or self._options.model
        retrying = tenacity.Retrying(**self._options.retrying(timeout_s))
        return retrying(lambda: self._transport.generate(model, request, max(deadline - time.monotonic(), 0.001)))

    def stream(
        self, prompt: str | GenerationRequest, /, *, timeout_s: float | None = None, **fields: Unpack[RequestFields]
    ) -> Iterator[Event]:
        """Generate step by step: ``Progress`` events, then the ``Generation``. Retried only before the first event."""
        request = with_seed(as_request(prompt, **fields))
        timeout_s = timeout_s or self._options.timeout_s
        deadline = time.monotonic() + timeout_s
        model = request.model or self._options.model

        def first() -> tuple[Event, Iterator[Event]]:
            events = self._transport.stream(model, request, max(deadline - time.monotonic(), 0.001))
            return next(events), events

        event, rest = tenacity.Retrying(**self._options.retrying(timeout_s))(first)
        try:
            yield event
            yield from rest
        finally:
            rest.close()  # type: ignore[attr-defined]
