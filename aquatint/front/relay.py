"""The unary front over a stream front that draws by itself: one process holds the weights, both protocols are served.

Only importable inside a Triton Python backend process.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from aquatint import errors
from aquatint.errors import AquatintError, EngineUnavailable
from aquatint.front.base import CANCEL_PARAMETER, TOKEN_PARAMETER, Front
from aquatint.pipeline import Event, GenerationResult, Progress
from aquatint.request import ResolvedRequest
from aquatint.served_model import MODEL_INFO_PARAMETER, ModelInfo
from aquatint.settings import FrontSettings
from aquatint.tensors import FIELD_TYPES


class Relay:
    """Draws by a decoupled BLS call to the model ``<name>_stream``."""

    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self.cache_counts = (0, 0)

    def run(
        self, request: ResolvedRequest, checkpoint: Callable[[], None] = lambda: None
    ) -> Generator[Event, None, None]:
        """The stream front's answers as events; a run that ends early stops the drawing there."""
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
                event = _event(response, request)
                finished = isinstance(event, GenerationResult)
                yield event
                checkpoint()
        finally:
            if not finished:
                # Consumed, because a call happens only when its answers are read.
                list(self._call(self._inputs(request), {CANCEL_PARAMETER: token}))
        if not finished:
            raise EngineUnavailable("the drawing ended without a picture")

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
        fields = request.model_dump(exclude={"model"})
        return [
            pb_utils.Tensor(
                name, np.array([value.encode() if isinstance(value, str) else value], FIELD_TYPES[name].numpy)
            )
            for name, value in fields.items()
        ]


def _error(message: str) -> AquatintError:
    return errors.from_wire(message) or errors.internal(RuntimeError(message))


def _event(response: Any, request: ResolvedRequest) -> Event:
    tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
    info = json.loads(tensors["info"][0])
    # Copied, because the tensor's memory goes with the response.
    image = np.array(tensors["image"]) if "image" in tensors else None
    if info["type"] == "progress":
        return Progress(info["step"], info["total_steps"], image)
    assert image is not None
    return GenerationResult(image, request, info["dropped_tokens"], info["timings"], info["batch"])


class TritonPythonModel(Front):
    """The unary front."""

    def open_drawer(self, args: dict[str, str], settings: FrontSettings) -> Relay:
        """Read what callers may know of the model from this model's own configuration."""
        parameters = json.loads(args["model_config"])["parameters"]
        return Relay(ModelInfo.model_validate_json(parameters[MODEL_INFO_PARAMETER]["string_value"]))
