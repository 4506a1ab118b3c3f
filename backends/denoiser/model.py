"""A Triton python-based backend that holds images in flight: one decoupled call for each request, stepped together.

Three threads beside Triton's own: one steps, one sends answers, so that no step waits for a caller, and one watches for
requests whose callers have gone. Parameters: ``engine`` (a module of ``engines``), ``policy`` (of ``in_flight``), and
those of the engine. Only importable inside a Triton Python backend process.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from aquatint_backends.batching import Usage
from aquatint_backends.denoiser import messages
from aquatint_backends.denoiser.cancelling import Cancellation
from aquatint_backends.denoiser.engines import Place, open_engine
from aquatint_backends.denoiser.messages import Answer
from numpy.typing import NDArray

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, InvalidRequest
from aquatint.diffusion import families, samplers, served_model
from aquatint.diffusion.families import Tensors
from aquatint.diffusion.in_flight import POLICIES, Engine, Flight, InFlight
from aquatint.diffusion.samplers.flow_match import FlowMatchConfig
from aquatint.diffusion.slot import Slot

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_IDLE_S = 0.5
_WATCH_EVERY_S = 0.02
_STOP_WITHIN_S = 30.0
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
        auto_complete_model_config.add_output({"name": messages.PROGRESS, "data_type": "TYPE_INT32", "dims": [3]})
        auto_complete_model_config.add_output(
            {"name": messages.LATENTS, "data_type": "TYPE_FP32", "dims": [-1, -1, -1, -1]}
        )
        auto_complete_model_config.set_model_transaction_policy({"decoupled": True})
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine and start the threads; called once by Triton."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        version = Path(args["model_repository"]) / args["model_version"]
        self._served = served_model.read(version)
        try:
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
        self._family = families.registry()[self._served.family]
        self._schedule = FlowMatchConfig.from_diffusers(self._served.scheduler)
        self._flights = InFlight(engine, self._served.max_batch_size, policy=policy)
        self._answers: queue.SimpleQueue[tuple[Any, Any, int] | None] = queue.SimpleQueue()
        self._callers: set[_Caller] = set()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._step, self._send, self._watch)]
        for thread in self._threads:
            thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Let every request join; the answers follow from another thread."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                caller = _Caller(sender, self._answers, self._callers)
                flight = self._flight(request, caller)
                caller.flight = flight
                self._callers.add(caller)
                self._flights.join(flight)
            # The border of the process: whatever is wrong with a request is its answer.
            except Exception as error:
                caller.failed(errors.internal(error))

    def finalize(self) -> None:
        """End what is in flight and the threads; called once by Triton."""
        self._flights.close()
        deadline = time.monotonic() + _STOP_WITHIN_S
        while len(self._flights) and time.monotonic() < deadline:
            time.sleep(_WATCH_EVERY_S)
        self._stopping.set()
        self._answers.put(None)
        for thread in self._threads:
            thread.join(_STOP_WITHIN_S)

    def _flight(self, request: Any, caller: _Caller) -> Flight:
        tensors = {name: _input(request, name) for name in (messages.LATENTS, *_CONDITIONING)}
        try:
            wanted = messages.read_parameters(
                pb_utils.get_input_tensor_by_name(request, messages.PARAMETERS).as_numpy()
            )
            caller.cancellation = Cancellation(wanted.cancellation)
            kind = samplers.registry()[wanted.sampler or samplers.DEFAULT]
        except (ValueError, KeyError, AttributeError) as error:
            raise InvalidRequest(f"{messages.PARAMETERS}: cannot be used") from error
        latents = tensors.pop(messages.LATENTS)
        sampler = kind(self._schedule, wanted.num_inference_steps, self._family.image_seq_len(self._served, latents))
        slot = Slot(
            family=self._family,
            latents=latents,
            conditioning=tensors,
            sampler=sampler,
            guidance_scale=wanted.guidance_scale,
            skip_layers=self._served.skip_layer_guidance,
            num_inference_steps=wanted.num_inference_steps,
            preview_every=wanted.preview_every,
        )
        if {len(value) for value in tensors.values()} != {len(latents) * (1 if wanted.guidance_scale is None else 2)}:
            raise InvalidRequest(f"{_CONDITIONING[0]}: must have a row for each image and kind of guidance")
        return Flight(slot, caller, wanted.priority, time.monotonic() + wanted.timeout_s)

    def _step(self) -> None:
        while not self._stopping.is_set():
            if self._flights.wait(_IDLE_S):
                self._flights.step()

    def _send(self) -> None:
        while (answer := self._answers.get()) is not None:
            sender, response, flags = answer
            # A caller that has gone takes no answer; nobody else is to suffer from it.
            try:
                sender.send(response, flags)
            except Exception as error:
                pb_utils.Logger.log_verbose(f"an answer was not taken: {error}")

    def _watch(self) -> None:
        while not self._stopping.wait(_WATCH_EVERY_S):
            for caller in list(self._callers):
                if caller.has_gone():
                    self._flights.cancel(caller.flight)


class _Caller:
    """Listens for one request and answers it."""

    flight: Flight

    def __init__(self, sender: Any, answers: queue.SimpleQueue[Any], callers: set[_Caller]) -> None:
        self._sender = sender
        self._answers = answers
        self._callers = callers
        self.cancellation: Cancellation | None = None

    def progressed(self, evaluated: int, evaluations: int, heading_for: NDArray[np.float32] | None) -> None:
        """Answer after an evaluation; the last one is answered by ``finished``."""
        if evaluated < evaluations or heading_for is not None:
            self._answer(Answer(evaluated, evaluations, False, heading_for), 0)

    def finished(self, latents: NDArray[np.float32], statistics: dict[str, float]) -> None:
        """Answer with the final latents."""
        evaluations = self.flight.slot.evaluations
        self._end()
        self._answer(Answer(evaluations, evaluations, True, latents), _FINAL)

    def failed(self, error: AquatintError) -> None:
        """Answer with an error."""
        self._end()
        code = getattr(pb_utils.TritonError, errors.mapping(error).triton)
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(errors.to_wire(error), code))
        self._answers.put((self._sender, response, _FINAL))

    def has_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.cancellation is not None and self.cancellation.is_set()

    def _answer(self, answer: Answer, flags: int) -> None:
        tensors = [pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in answer.tensors().items()]
        self._answers.put((self._sender, pb_utils.InferenceResponse(tensors), flags))

    def _end(self) -> None:
        self._callers.discard(self)
        if self.cancellation is not None:
            self.cancellation.forget()


class _Counted:
    """An engine whose calls, rows and seconds are counted."""

    def __init__(self, engine: Engine, usage: Usage) -> None:
        self._engine = engine
        self._usage = usage

    def __call__(self, inputs: Tensors) -> NDArray[np.float32]:
        started = time.perf_counter()
        velocity = self._engine(inputs)
        self._usage.count(len(velocity), time.perf_counter() - started)
        return velocity


def _input(request: Any, name: str) -> NDArray[np.float32]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise InvalidRequest(f"{name}: is missing")
    # Copied, because the tensor's memory goes with the request.
    return np.array(tensor.as_numpy())
