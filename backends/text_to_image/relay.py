"""Unary text to image over a decoupled model that generates by itself: one process holds the weights for both.

Only importable inside a Triton Python backend process.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from aquatint_backends.text_to_image.base import CANCEL_PARAMETER, TOKEN_PARAMETER, TextToImageModel

from aquatint.contract import errors, wire
from aquatint.contract.errors import AquatintError, EngineUnavailable
from aquatint.contract.fields import TENSORS
from aquatint.contract.generation import Event, Generation
from aquatint.contract.model_info import MODEL_INFO_PARAMETER, ModelInfo
from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion.pipeline import ANYBODY, Caller
from aquatint.settings import TextToImageSettings


class Relay:
    """Generates through a decoupled BLS call to the model ``<name>_stream``."""

    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self.cache_counts = (0, 0)

    def run(self, request: ResolvedRequest, caller: Caller = ANYBODY) -> Generator[Event, None, None]:
        """Yield the decoupled model's answers as events; a run that ends early stops the generation there."""
        token = uuid.uuid4().hex
        finished = False
        try:
            for response in self._call(self._inputs(request), {TOKEN_PARAMETER: token}):
                if response.has_error():
                    finished = True
                    raise _error(response.error().message())
                # Triton closes a stream with an empty response.
                if not response.output_tensors():
                    break
                event = _event(response)
                finished = isinstance(event, Generation)
                yield event
                caller.raise_if_cancelled()
        finally:
            if not finished:
                # Consumed, because a call happens only when its answers are read.
                list(self._call(self._inputs(request), {CANCEL_PARAMETER: token}))
        if not finished:
            raise EngineUnavailable("the generation ended without an image")

    def _call(self, inputs: list[Any], parameters: dict[str, str]) -> Any:
        call = pb_utils.InferenceRequest(
            model_name=f"{self.info.name}_stream",
            requested_output_names=["image", "info"],
            inputs=inputs,
            parameters=parameters,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        return call.exec(decoupled=True)

    @staticmethod
    def _inputs(request: ResolvedRequest) -> list[Any]:
        fields = request.model_dump(include=set(TENSORS), exclude_none=True)
        return [
            pb_utils.Tensor(name, np.array([value.encode() if isinstance(value, str) else value], TENSORS[name].numpy))
            for name, value in fields.items()
        ]


def _event(response: Any) -> Event:
    # Copied, because the tensors' memory is freed with the response.
    return wire.decode({tensor.name(): np.array(tensor.as_numpy()) for tensor in response.output_tensors()})


def _error(message: str) -> AquatintError:
    return errors.from_wire(message) or errors.internal(RuntimeError(message))


class RelayModel(TextToImageModel):
    """Passes requests on to ``<name>_stream``."""

    def open_pipeline(self, args: dict[str, str], settings: TextToImageSettings) -> Relay:
        """Read what callers may know about the model from this model's own configuration."""
        parameters = json.loads(args["model_config"])["parameters"]
        return Relay(ModelInfo.model_validate_json(parameters[MODEL_INFO_PARAMETER]["string_value"]))
