"""The runtime's KServe ``Model``: the Open Inference Protocol with the tensors of the Triton front."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import grpc
import numpy as np
from grpc_interceptor.exceptions import GrpcException
from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model
from numpy.typing import NDArray
from PIL import Image

from aquatint import errors
from aquatint import request as requests
from aquatint.errors import AquatintError, InvalidRequest
from aquatint.generation import Generation, completed_info
from aquatint.local_engine import LocalEngine
from aquatint.tensors import FIELD_TYPES

_OUTPUTS = {
    "image": ("UINT8", [-1, -1, -1, 3]),
    "png": ("BYTES", [-1]),
    "seed": ("INT64", [-1]),
    "info": ("BYTES", [1]),
}
# Request parameters that KServe's clients set on their own.
_TRANSPORT_PARAMETERS = {"binary_data_output", "timeout", "priority"}


class TextToImage(Model):  # type: ignore[misc]  # kserve publishes no types
    """Serves V2 over REST and gRPC; V1 is served by its own route before KServe's."""

    def __init__(self, name: str, engine: LocalEngine) -> None:
        super().__init__(name)
        self._engine = engine

    def load(self) -> bool:
        """The engine is loaded by who made it; this only says so."""
        self.ready = True
        return self.ready

    def get_input_types(self) -> list[dict[str, Any]]:
        """The request contract's fields, for model metadata."""
        return [{"name": name, "datatype": kind.datatype, "shape": [1]} for name, kind in FIELD_TYPES.items()]

    def get_output_types(self) -> list[dict[str, Any]]:
        """What can be asked for, for model metadata."""
        return [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in _OUTPUTS.items()]

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        """Draw one request. Raises errors in the form the protocol at hand needs."""
        try:
            if not isinstance(payload, InferRequest):
                raise InvalidRequest("request: this route takes the Open Inference Protocol's inputs")
            wanted = _wanted(payload)
            generation = await self._engine.generate(requests.parse({**_fields(payload), "model": self.name}))
        except AquatintError as error:
            raise (_as_grpc(error) if getattr(payload, "from_grpc", False) else error) from None
        outputs = [_output(name, generation, binary=payload.from_grpc) for name in wanted]
        return InferResponse(payload.id or "", self.name, outputs)


def _wanted(payload: InferRequest) -> list[str]:
    """The outputs to answer with: those asked for, by default the PNG and what belongs to it."""
    asked = [output.name for output in payload.request_outputs or []]
    if unknown := set(asked) - set(_OUTPUTS):
        raise InvalidRequest(f"outputs: there is no {', '.join(sorted(unknown))}")
    return asked or ["png", "seed", "info"]


def _fields(payload: InferRequest) -> dict[str, Any]:
    if unknown := set(payload.parameters or {}) - _TRANSPORT_PARAMETERS:
        raise InvalidRequest(f"unknown field: {', '.join(sorted(unknown))}")
    return dict(_field(tensor) for tensor in payload.inputs)


def _field(tensor: InferInput) -> tuple[str, Any]:
    name = tensor.name
    if name not in FIELD_TYPES:
        raise InvalidRequest(f"unknown field: {name}")
    if tensor.datatype != FIELD_TYPES[name].datatype:
        raise InvalidRequest(f"{name}: must be {FIELD_TYPES[name].datatype}, is {tensor.datatype}")
    try:
        values = np.asarray(tensor.as_numpy()).reshape(-1)
    # kserve raises whatever numpy does with a shape that does not fit.
    except (ValueError, TypeError, InvalidRequest) as error:
        raise InvalidRequest(f"{name}: its data does not fit its shape") from error
    if values.size != 1:
        raise InvalidRequest(f"{name}: must be one value, is {values.size}")
    value = values[0]
    return name, value if isinstance(value, str | bytes) else value.item()


def _output(name: str, generation: Generation, binary: bool) -> InferOutput:
    output = InferOutput(name, [], _OUTPUTS[name][0])
    data = _data(name, generation)
    output.shape = list(data.shape)
    output.set_data_from_numpy(data, binary_data=binary)
    return output


def _data(name: str, generation: Generation) -> NDArray[Any]:
    if name == "image":
        return np.stack([_pixels(image.png) for image in generation.images])
    if name == "png":
        # Base64 text as in the Triton front: JSON has no binary form.
        return np.array([base64.b64encode(image.png) for image in generation.images], np.object_)
    if name == "seed":
        return np.array([image.seed for image in generation.images], np.int64)
    info = completed_info(generation.parameters, generation.dropped_tokens, generation.timings, generation.batch)
    return np.array([json.dumps(info).encode()], np.object_)


def _pixels(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def _as_grpc(error: AquatintError) -> GrpcException:
    status = getattr(grpc.StatusCode, errors.mapping(error).grpc)
    return GrpcException(status_code=status, details=errors.to_wire(error))
