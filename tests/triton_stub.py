"""The part of Triton's ``triton_python_backend_utils`` that our backends use, for tests without a server."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


class Tensor:
    """A named array."""

    def __init__(self, name: str, data: NDArray[Any]) -> None:
        self._name, self._data = name, data

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._data


class TritonError(Exception):
    """An error with a code, which here is its name."""

    INVALID_ARG, INTERNAL, UNAVAILABLE, CANCELLED, NOT_FOUND, UNSUPPORTED = (
        "INVALID_ARG",
        "INTERNAL",
        "UNAVAILABLE",
        "CANCELLED",
        "NOT_FOUND",
        "UNSUPPORTED",
    )

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        super().__init__(message)
        self.code = code


class InferenceResponse:
    """Tensors, or an error."""

    def __init__(self, tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.tensors = {tensor.name(): tensor.as_numpy() for tensor in tensors}
        self.error = error


class Request:
    """Input tensors by name."""

    def __init__(self, **inputs: NDArray[Any]) -> None:
        self.inputs = {name: Tensor(name, np.asarray(value)) for name, value in inputs.items()}


class Metric:
    """A number per set of labels, of all families alike."""

    def __init__(self, values: dict[str, float], name: str) -> None:
        self._values, self._name = values, name

    def increment(self, amount: float) -> None:
        self._values[self._name] = self._values.get(self._name, 0.0) + amount

    def set(self, value: float) -> None:
        self._values[self._name] = value


def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Make ``import triton_python_backend_utils`` find this; return the counted metrics by name."""
    counted: dict[str, float] = {}

    class MetricFamily:
        COUNTER, GAUGE = "counter", "gauge"

        def __init__(self, name: str, description: str, kind: str) -> None:
            self._name = name

        def Metric(self, labels: dict[str, str]) -> Metric:
            return Metric(counted, self._name)

    class Logger:
        @staticmethod
        def log_error(message: str) -> None: ...

    module = types.ModuleType("triton_python_backend_utils")
    names = {
        "Tensor": Tensor,
        "TritonError": TritonError,
        "InferenceResponse": InferenceResponse,
        "MetricFamily": MetricFamily,
        "Logger": Logger,
        "TRITONSERVER_RESPONSE_COMPLETE_FINAL": 1,
        "get_input_tensor_by_name": lambda request, name: request.inputs.get(name),
    }
    for name, value in names.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return counted
