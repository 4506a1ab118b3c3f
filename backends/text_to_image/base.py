"""What every text-to-image model inside Triton does: validate, run an ``ImagePipeline``, answer; unary or streamed.

``execute`` hands every request to a thread of its own and returns at once; the thread answers through the request's
response sender, so many requests are in flight in one instance. Limits, deadlines and the queue are here, because
Triton's queue policies stall a model with one instance.

Only importable inside a Triton Python backend process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from aquatint_backends.text_to_image.metrics import RequestMetrics

from aquatint.contract import errors, request, wire
from aquatint.contract.errors import (
    AquatintError,
    Cancelled,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidRequest,
    Overloaded,
)
from aquatint.contract.fields import TENSORS
from aquatint.contract.generation import Event, Generation
from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion.pipeline import Caller, ImagePipeline
from aquatint.settings import TextToImageSettings

# Request parameters that Triton and its clients set themselves.
_TRANSPORT_PARAMETERS = ("binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end")
# A relay gives each call a token and cancels it by another call with that token, because Triton 2.51 does not pass
# cancellation on to the calls that a model makes.
TOKEN_PARAMETER = "aquatint_token"
CANCEL_PARAMETER = "aquatint_cancel"
_ADMISSION_POLL_S = 0.05
_RETRY_AFTER_S = 1.0
_UNLOAD_GRACE_S = 30.0
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Admission:
    """At most ``running`` requests at once and ``queued`` waiting; more are refused."""

    def __init__(self, running: int, queued: int) -> None:
        self._limit = running + queued
        self._slots = threading.BoundedSemaphore(running)
        self._lock = threading.Lock()
        self.admitted = 0

    def enter(self) -> None:
        """Take a place in the queue. Raises ``Overloaded``."""
        with self._lock:
            if self.admitted >= self._limit:
                raise Overloaded(f"{self.admitted} requests are already running or queued", _RETRY_AFTER_S)
            self.admitted += 1

    def leave(self) -> None:
        """Give back the place in the queue."""
        with self._lock:
            self.admitted -= 1

    def acquire(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds to start running."""
        return self._slots.acquire(timeout=timeout)

    def release(self) -> None:
        """Stop running."""
        self._slots.release()


class TextToImageModel(ABC):
    """A Triton Python model; unary or decoupled by its configuration. Subclasses say what generates."""

    @abstractmethod
    def open_pipeline(self, args: dict[str, str], settings: TextToImageSettings) -> ImagePipeline:
        """Make the pipeline from the arguments of ``initialize``. An exception makes loading the model fail."""

    def initialize(self, args: dict[str, str]) -> None:
        """Prepare to generate; called once by Triton."""
        settings = TextToImageSettings()
        config = json.loads(args["model_config"])
        self._decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled"))
        self._timeout_s = settings.request_timeout_s
        self._pipeline = self.open_pipeline(args, settings)
        self._admission = Admission(settings.max_running, settings.max_queued)
        self._metrics = RequestMetrics(args["model_name"])
        self._stopping = threading.Event()
        self._cancellable: dict[str, threading.Event] = {}

    def execute(self, requests: list[Any]) -> None:
        """Hand each request to its own thread; the answers go through the response senders."""
        for triton_request in requests:
            sender = triton_request.get_response_sender()
            parameters = json.loads(triton_request.parameters() or "{}")
            if self._decoupled and (cancelled := parameters.get(CANCEL_PARAMETER)):
                if event := self._cancellable.get(cancelled):
                    event.set()
                sender.send(flags=_FINAL)
                continue
            try:
                self._admission.enter()
            except Overloaded as error:
                self._fail(sender, error)
                continue
            self._metrics.admitted(self._admission.admitted)
            job = _Job(triton_request, parameters, sender=sender, timeout_s=self._timeout_s, stopping=self._stopping)
            if job.token is not None:
                self._cancellable[job.token] = job.cancelled
            threading.Thread(target=self._serve, args=(job,), daemon=True).start()

    def finalize(self) -> None:
        """Stop the requests in flight at their next step and wait for them for a while; called once by Triton."""
        self._stopping.set()
        deadline = time.monotonic() + _UNLOAD_GRACE_S
        while self._admission.admitted and time.monotonic() < deadline:
            time.sleep(_ADMISSION_POLL_S)
        self._metrics.close()

    def _serve(self, job: _Job) -> None:
        try:
            resolved = request.resolve(request.parse(job.fields()), self._pipeline.info)
            while not self._admission.acquire(_ADMISSION_POLL_S):
                job.raise_if_cancelled()
            try:
                self._generate(job, resolved)
            finally:
                self._admission.release()
        # Whatever happens must become an error response, never a traceback or a client that waits forever.
        except Exception as error:
            self._fail(job.sender, errors.internal(error))
        finally:
            self._cancellable.pop(job.token or "", None)
            self._admission.leave()
            self._metrics.admitted(self._admission.admitted)

    def _generate(self, job: _Job, resolved: ResolvedRequest) -> None:
        queued_s = time.monotonic() - job.arrived
        with contextlib.closing(self._pipeline.run(resolved, Caller(job.raise_if_cancelled, job.deadline))) as events:
            for event in events:
                if isinstance(event, Generation):
                    finished = dataclasses.replace(event, timings={"queue_s": queued_s, **event.timings})
                    self._metrics.finished(finished, self._pipeline.cache_counts)
                    job.sender.send(_response(finished, job.outputs), _FINAL)
                    # Any use of a sender after its last response crashes Triton 2.51, even is_cancelled().
                    return
                self._metrics.stepped(len(resolved.seeds))
                if self._decoupled:
                    job.sender.send(_response(event, job.outputs))

    def _fail(self, sender: Any, error: AquatintError) -> None:
        self._metrics.failed(type(error).__name__)
        code = getattr(pb_utils.TritonError, errors.mapping(error).triton)
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(errors.to_wire(error), code))
        sender.send(response, _FINAL)


class _Job:
    """One request in flight: its fields, its requested outputs, its deadline and whether its caller is still there."""

    def __init__(
        self,
        triton_request: Any,
        parameters: dict[str, Any],
        *,
        sender: Any,
        timeout_s: float,
        stopping: threading.Event,
    ) -> None:
        self.sender = sender
        self.cancelled = threading.Event()
        self.token: str | None = parameters.get(TOKEN_PARAMETER)
        self._parameters = parameters
        self.arrived = time.monotonic()
        asked_s = triton_request.timeout() / 1e6
        self.deadline = self.arrived + (min(asked_s, timeout_s) if asked_s > 0 else timeout_s)
        self._request = triton_request
        self._stopping = stopping
        wanted = set(triton_request.requested_output_names())
        # A caller that names no outputs is offered all of them; it gets the PNG, which JSON can carry.
        self.outputs = wanted - {"image"} if {"image", "png"} <= wanted else wanted

    def fields(self) -> dict[str, Any]:
        """Read the contract's fields from the input tensors. Raises ``InvalidRequest``."""
        unknown = set(self._parameters) - {*_TRANSPORT_PARAMETERS, TOKEN_PARAMETER}
        if unknown := {name for name in unknown if not name.startswith("triton_")}:
            raise InvalidRequest(f"unknown field: {', '.join(sorted(unknown))}")
        return {name: value for name in TENSORS if (value := self._field(name)) is not None}

    def _field(self, name: str) -> Any:
        tensor = pb_utils.get_input_tensor_by_name(self._request, name)
        if tensor is None:
            return None
        values = tensor.as_numpy().reshape(-1)
        if values.size != 1:
            raise InvalidRequest(f"{name}: must be one value, is {values.size}")
        return values[0] if TENSORS[name].datatype == "BYTES" else values[0].item()

    def raise_if_cancelled(self) -> None:
        """Raise ``Cancelled``, ``DeadlineExceeded`` or ``EngineUnavailable`` when this request should stop."""
        if self.cancelled.is_set() or self._request.is_cancelled() or self.sender.is_cancelled():
            raise Cancelled("the request was cancelled")
        if time.monotonic() > self.deadline:
            raise DeadlineExceeded("the request's time ran out")
        if self._stopping.is_set():
            raise EngineUnavailable("the model is being unloaded")


def _response(event: Event, wanted: set[str]) -> Any:
    tensors = [pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in wire.encode(event, wanted).items()]
    return pb_utils.InferenceResponse(tensors)
