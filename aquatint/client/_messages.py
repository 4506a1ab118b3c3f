"""Requests as Triton tensors, and Triton's answers as results; shared by every client, without any network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from aquatint.contract import errors, wire
from aquatint.contract.errors import AquatintError
from aquatint.contract.fields import TENSORS
from aquatint.contract.generation import Event
from aquatint.contract.model_info import MODEL_INFO_PARAMETER, ModelInfo
from aquatint.contract.request import GenerationRequest

# PNG files and the description, not the raw pixels.
_WANTED = ("png", "info")
_STATUS_ERRORS: dict[str, type[AquatintError]] = {
    "StatusCode.INVALID_ARGUMENT": errors.InvalidRequest,
    "StatusCode.NOT_FOUND": errors.ModelNotFound,
    "StatusCode.CANCELLED": errors.Cancelled,
    "StatusCode.DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "StatusCode.UNAVAILABLE": errors.EngineUnavailable,
    "StatusCode.RESOURCE_EXHAUSTED": errors.Overloaded,
}


def request_fields(request: GenerationRequest, *, stream: bool) -> dict[str, Any]:
    """Select the fields to send: those that are set and, unless streaming, those that need no stream."""
    names = {name for name, tensor in TENSORS.items() if stream or not tensor.stream_only}
    return {name: value for name, value in request.model_dump(include=names).items() if value is not None}


def unary_call(model: str, request: GenerationRequest, timeout_s: float) -> dict[str, Any]:
    """Build the arguments of a gRPC ``infer``: the client's deadline is the server's too."""
    return {
        "model_name": model,
        "inputs": grpc_inputs(request_fields(request, stream=False)),
        "outputs": grpc_outputs(),
        "client_timeout": timeout_s,
        "timeout": int(timeout_s * 1e6),
    }


def stream_call(model: str, request: GenerationRequest, timeout_s: float) -> dict[str, Any]:
    """Build the arguments of a gRPC stream request to the decoupled model."""
    return {
        "model_name": f"{model}_stream",
        "inputs": grpc_inputs(request_fields(request, stream=True)),
        "outputs": grpc_outputs(),
        "timeout": int(timeout_s * 1e6),
    }


def grpc_inputs(fields: Mapping[str, Any]) -> list[InferInput]:
    """Convert fields to tensors of shape ``(1,)``."""
    inputs = []
    for name, value in fields.items():
        tensor = InferInput(name, [1], TENSORS[name].datatype)
        data = [value.encode() if isinstance(value, str) else value]
        tensor.set_data_from_numpy(np.array(data, TENSORS[name].numpy))
        inputs.append(tensor)
    return inputs


def grpc_outputs() -> list[InferRequestedOutput]:
    """List the outputs to ask for."""
    return [InferRequestedOutput(name) for name in _WANTED]


def parse_grpc(result: Any) -> Event:
    """Read a gRPC answer."""
    tensors = {name: result.as_numpy(name) for name in _WANTED}
    return wire.decode({name: value for name, value in tensors.items() if value is not None})


def parse_json(answer: Mapping[str, Any]) -> Event:
    """Read a ``generate`` or ``generate_stream`` answer. Raises the error it carries."""
    if "error" in answer:
        raise from_text(str(answer["error"]))
    return wire.from_json(answer)


def model_info(parameters: Mapping[str, Any], model: str) -> ModelInfo:
    """Read a text-to-image model's description from its Triton configuration. Raises ``ModelNotFound``."""
    try:
        return ModelInfo.model_validate_json(parameters[MODEL_INFO_PARAMETER]["string_value"])
    except (KeyError, TypeError, ValidationError):
        raise errors.ModelNotFound(f"{model} is not a text-to-image model of Aquatint") from None


def from_text(text: str) -> AquatintError:
    """Return the error that a server's message stands for."""
    if found := errors.from_wire(text):
        return found
    if "unknown model" in text or "is not found" in text:
        return errors.ModelNotFound("the server has no such model")
    if "is not ready" in text:
        return errors.EngineUnavailable("the model is not ready")
    return errors.Internal(text)


def from_triton(error: InferenceServerException) -> AquatintError:
    """Return the error that a Triton client exception stands for: by its text if ours, else by its gRPC status."""
    message = error.message() or ""
    found = from_text(message)
    if not isinstance(found, errors.Internal):
        return found
    kind = _STATUS_ERRORS.get(str(error.status()), errors.Internal)
    if kind is errors.EngineUnavailable:
        # gRPC's own text here mentions sockets and addresses.
        return kind("the server cannot be reached or is going away")
    return kind(message or "the server gave no reason")
