"""The runtime's KServe ``Model``: the Open Inference Protocol with the tensors of the Triton models."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from aquatint_backends.aquatint_runtime.local_generator import LocalGenerator
from grpc_interceptor.exceptions import GrpcException
from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model
from numpy.typing import NDArray

from aquatint.contract import errors, wire
from aquatint.contract import request as requests
from aquatint.contract.errors import AquatintError, InvalidRequest
from aquatint.contract.fields import TENSORS
from aquatint.contract.wire import OUTPUTS

# Request parameters that KServe's clients set by themselves.
_TRANSPORT_PARAMETERS = {"binary_data_output", "timeout", "priority"}


class TextToImage(Model):  # type: ignore[misc]  # kserve publishes no types
    """Serves V2 over REST and gRPC; a route of our own, ahead of KServe's, serves V1."""

    def __init__(self, name: str, engine: LocalGenerator) -> None:
        super().__init__(name)
        self._engine = engine

    def load(self) -> bool:
        """Become ready; the pipeline is loaded elsewhere."""
        self.ready = True
        return self.ready

    def get_input_types(self) -> list[dict[str, Any]]:
        """List the request contract's fields, for model metadata."""
        return [{"name": name, "datatype": kind.datatype, "shape": [1]} for name, kind in TENSORS.items()]

    def get_output_types(self) -> list[dict[str, Any]]:
        """List the outputs that a request may name, for model metadata."""
        return [
            {"name": name, "datatype": output.type.datatype, "shape": list(output.dims)}
            for name, output in OUTPUTS.items()
        ]

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        """Generate for one request. Raises errors in the form that the request's protocol needs."""
        try:
            if not isinstance(payload, InferRequest):
                raise InvalidRequest("request: this route takes the Open Inference Protocol's inputs")
            wanted = _wanted(payload)
            generation = await self._engine.generate(requests.parse({**_fields(payload), "model": self.name}))
        except AquatintError as error:
            raise (_as_grpc(error) if getattr(payload, "from_grpc", False) else error) from None
        tensors = wire.encode(generation, wanted)
        outputs = [_output(name, tensors[name], binary=payload.from_grpc) for name in wanted]
        return InferResponse(payload.id or "", self.name, outputs)


def _wanted(payload: InferRequest) -> list[str]:
    """List the outputs to return: those requested, by default the PNG, its seed and its description."""
    asked = [output.name for output in payload.request_outputs or []]
    if unknown := set(asked) - set(OUTPUTS):
        raise InvalidRequest(f"outputs: there is no {', '.join(sorted(unknown))}")
    return asked or ["png", "seed", "info"]


def _fields(payload: InferRequest) -> dict[str, Any]:
    if unknown := set(payload.parameters or {}) - _TRANSPORT_PARAMETERS:
        raise InvalidRequest(f"unknown field: {', '.join(sorted(unknown))}")
    return dict(_field(tensor) for tensor in payload.inputs)


def _field(tensor: InferInput) -> tuple[str, Any]:
    name = tensor.name
    if name not in TENSORS:
        raise InvalidRequest(f"unknown field: {name}")
    if tensor.datatype != TENSORS[name].datatype:
        raise InvalidRequest(f"{name}: must be {TENSORS[name].datatype}, is {tensor.datatype}")
    try:
        values = np.asarray(tensor.as_numpy()).reshape(-1)
    # kserve passes on whatever numpy raises for a shape that does not fit.
    except (ValueError, TypeError, InvalidRequest) as error:
        raise InvalidRequest(f"{name}: its data does not fit its shape") from error
    if values.size != 1:
        raise InvalidRequest(f"{name}: must be one value, is {values.size}")
    value = values[0]
    return name, value if isinstance(value, str | bytes) else value.item()


def _output(name: str, data: NDArray[Any], *, binary: bool) -> InferOutput:
    output = InferOutput(name, list(data.shape), OUTPUTS[name].type.datatype)
    output.set_data_from_numpy(data, binary_data=binary)
    return output


def _as_grpc(error: AquatintError) -> GrpcException:
    status = getattr(grpc.StatusCode, errors.mapping(error).grpc)
    return GrpcException(status_code=status, details=errors.to_wire(error))
