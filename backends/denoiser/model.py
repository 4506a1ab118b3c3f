"""A Triton python-based backend that holds images in flight: one call for each request, stepped together.

Two threads beside Triton's own: one steps, and one sends answers, so that no step waits for a caller. Progress,
previews and cancelling go through a page of shared memory (``page``). Parameters: ``engine`` (a module of ``engines``),
``policy`` (of ``in_flight``), and those of the engine. Only importable inside a Triton Python backend process.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from aquatint_backends.batching import Usage
from aquatint_backends.denoiser import messages
from aquatint_backends.denoiser.engines import Place, open_engine
from aquatint_backends.denoiser.messages import DenoiseParameters
from aquatint_backends.denoiser.page import Page, Shape
from numpy.typing import NDArray

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, InvalidRequest
from aquatint.diffusion import served_model
from aquatint.diffusion.arrays import Arrays
from aquatint.diffusion.in_flight import POLICIES, Engine, Flight, InFlight
from aquatint.diffusion.rows import Tensors
from aquatint.diffusion.slot import SlotFactory

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_IDLE_S = 0.5
_POLL_S = 0.02
_STOP_WITHIN_S = 30.0
_ACTIVE_FAMILY = (
    "aquatint_denoiser_active_seconds_total",
    "Seconds with requests in flight; without the engine's busy seconds, the time lost between its runs",
)
_CONDITIONING = ("encoder_hidden_states", "pooled_projections")


class TritonPythonModel:
    """One instance: one engine and the images it holds."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the inputs and outputs; there is no batching of Triton's, for this model batches by steps."""
        floats = ((messages.LATENTS, [-1, -1, -1, -1]), ("encoder_hidden_states", [-1, -1, -1]))
        for name, dims in (*floats, ("pooled_projections", [-1, -1])):
            auto_complete_model_config.add_input({"name": name, "data_type": "TYPE_FP32", "dims": dims})
        auto_complete_model_config.add_input({"name": messages.PARAMETERS, "data_type": "TYPE_STRING", "dims": [1]})
        output = {"name": messages.LATENTS, "data_type": "TYPE_FP32", "dims": [-1, -1, -1, -1]}
        auto_complete_model_config.add_output(output)

        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine and start the threads; called once by Triton."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        version = Path(args["model_repository"]) / args["model_version"]
        try:
            self._served = served_model.read(version)
            policy = POLICIES[parameters.get("policy", "fair")]
            place = Place(
                version=version,
                parameters=parameters,
                max_rows=self._served.max_batch_size,
                kind=args["model_instance_kind"],
                device=int(args["model_instance_device_id"]),
            )
            engine = _Counted(open_engine(place), Usage(args["model_name"]))
        except KeyError:
            raise pb_utils.TritonModelException(f"policy: must be one of {', '.join(POLICIES)}") from None
        except AquatintError as error:
            raise pb_utils.TritonModelException(errors.to_wire(error)) from None
        self._slots = SlotFactory(self._served)
        self._flights = InFlight(engine, self._served.max_batch_size, policy=policy)
        # Kept, because Triton forgets a family that nobody holds.
        self._active_family = pb_utils.MetricFamily(*_ACTIVE_FAMILY, pb_utils.MetricFamily.COUNTER)
        self._active = self._active_family.Metric(labels={"model": args["model_name"]})
        self._answers: queue.SimpleQueue[tuple[Any, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._step, self._send)]
        for thread in self._threads:
            thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Let every request join; the answers follow from another thread."""
        for request in requests:
            caller = _Caller(request.get_response_sender(), self._answers)
            try:
                self._flights.join(self._flight(request, caller))
            # The border of the process: whatever is wrong with a request is its answer.
            except Exception as error:
                caller.failed(errors.internal(error))

    def finalize(self) -> None:
        """End what is in flight and the threads; called once by Triton."""
        self._flights.close()
        deadline = time.monotonic() + _STOP_WITHIN_S
        while len(self._flights) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._stopping.set()
        self._answers.put(None)
        for thread in self._threads:
            thread.join(_STOP_WITHIN_S)

    def _flight(self, request: Any, caller: _Caller) -> Flight:
        latents, *conditioning = (_input(request, name) for name in (messages.LATENTS, *_CONDITIONING))
        wanted = _parameters(request)
        slot = self._slots.make(wanted.request, latents, dict(zip(_CONDITIONING, conditioning)))
        shape = Shape(latents=latents.shape, evaluations=slot.evaluations, preview_every=wanted.request.preview_every)
        caller.page = Page.open(wanted.page, shape)
        return Flight(slot, caller, deadline=time.monotonic() + wanted.timeout_s)

    def _step(self) -> None:
        while not self._stopping.is_set():
            if self._flights.wait(_IDLE_S):
                started = time.perf_counter()
                self._flights.step()
                self._active.increment(time.perf_counter() - started)

    def _send(self) -> None:
        while (answer := self._answers.get()) is not None:
            sender, make_response = answer
            # A caller that has gone takes no answer; nobody else is to suffer from it.
            try:
                sender.send(make_response(), _FINAL)
            except Exception as error:
                pb_utils.Logger.log_verbose(f"an answer was not taken: {error}")


class _Caller:
    """Listens for one request, writes its page and answers it."""

    def __init__(self, sender: Any, answers: queue.SimpleQueue[Any]) -> None:
        self._sender = sender
        self._answers = answers
        self.page: Page | None = None

    def has_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.page is not None and self.page.is_cancelled

    def progressed(self, evaluated: int, evaluations: int, heading_for: NDArray[np.float32] | None) -> None:
        """Write how far the request is."""
        assert self.page is not None
        self.page.advance(evaluated, heading_for)

    def finished(self, latents: NDArray[np.float32], statistics: dict[str, float]) -> None:
        """Answer with the final latents."""
        self._end(
            lambda: pb_utils.InferenceResponse([pb_utils.Tensor(messages.LATENTS, np.ascontiguousarray(latents))])
        )

    def failed(self, error: AquatintError) -> None:
        """Answer with an error."""
        code = getattr(pb_utils.TritonError, errors.mapping(error).triton)
        text = errors.to_wire(error)
        self._end(lambda: pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code)))

    def _end(self, make_response: Callable[[], Any]) -> None:
        if self.page is not None:
            self.page.close()
        # Made where it is sent: what Triton makes of tensors is not to be freed by another thread.
        self._answers.put((self._sender, make_response))


class _Counted:
    """An engine whose calls, rows and seconds are counted."""

    def __init__(self, engine: Engine, usage: Usage) -> None:
        self._engine = engine
        self._usage = usage

    @property
    def arrays(self) -> Arrays:
        return self._engine.arrays

    def __call__(self, inputs: Tensors) -> Any:
        started = time.perf_counter()
        velocity = self._engine(inputs)
        self._usage.count(len(velocity), time.perf_counter() - started)
        return velocity


def _parameters(request: Any) -> DenoiseParameters:
    tensor = pb_utils.get_input_tensor_by_name(request, messages.PARAMETERS)
    try:
        return DenoiseParameters.from_tensor(tensor.as_numpy())
    except (ValueError, AttributeError) as error:
        raise InvalidRequest(f"{messages.PARAMETERS}: cannot be used") from error


def _input(request: Any, name: str) -> NDArray[np.float32]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise InvalidRequest(f"{name}: is missing")
    # Copied, because the tensor's memory goes with the request.
    return np.array(tensor.as_numpy())
