"""Batching for the component backends: requests that wait together run as one batch, and its rows are split again.

Only importable inside a Triton Python backend process.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

_USAGE_FAMILIES = (
    ("aquatint_engine_batches_total", "Engine runs"),
    ("aquatint_engine_rows_total", "Rows of all engine runs; divided by batches, the rows per batch"),
    ("aquatint_engine_busy_seconds_total", "Seconds spent in engine runs"),
)


class BatchedBackend(ABC):
    """One instance of a component. Subclasses set the names in ``initialize`` and run one batch in ``run``."""

    inputs: list[str]
    outputs: list[str]
    # Inputs with one value per row. Triton has no empty dims, so they may arrive as (rows, 1).
    scalars: set[str]

    @abstractmethod
    def run(self, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run one batch and return arrays in the order of ``outputs``. An exception fails all requests of the batch."""

    def count_usage(self, model: str) -> None:
        """Report batches, rows and busy seconds under this model's name; call it once in ``initialize``."""
        self._usage = Usage(model)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests whose tensors differ only in their number of rows as one batch."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[tuple[int, dict[str, NDArray[Any]]]]] = defaultdict(list)
        for index, request in enumerate(requests):
            try:
                inputs = {name: self._input(request, name) for name in self.inputs}
            except ValueError as error:
                responses[index] = _error(str(error), pb_utils.TritonError.INVALID_ARG)
                continue
            groups[tuple((v.shape[1:], v.dtype) for v in inputs.values())].append((index, inputs))
        for members in groups.values():
            for (index, _), response in zip(members, self._run_together([inputs for _, inputs in members])):
                responses[index] = response
        return responses

    def _input(self, request: Any, name: str) -> NDArray[Any]:
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is None:
            raise ValueError(f"input {name} is missing")
        value: NDArray[Any] = tensor.as_numpy()
        return value.reshape(-1) if name in self.scalars else value

    def _run_together(self, batch: list[dict[str, NDArray[Any]]]) -> list[Any]:
        feed = {name: np.concatenate([inputs[name] for inputs in batch]) for name in self.inputs}
        started = time.perf_counter()
        try:
            outputs = self.run(feed)
        # Engines raise their own classes for wrong shapes, exhausted memory and device failures.
        except Exception as error:
            pb_utils.Logger.log_error(f"the engine failed: {error}")
            # A separate response for each, because Triton frees every response that it is given.
            return [_error(f"the engine failed: {error}", pb_utils.TritonError.INTERNAL) for _ in batch]
        rows = [len(next(iter(inputs.values()))) for inputs in batch]
        self._usage.count(sum(rows), time.perf_counter() - started)
        splits = np.cumsum(rows)[:-1]
        parts = [np.split(output, splits) for output in outputs]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(n, part[i]) for n, part in zip(self.outputs, parts)])
            for i in range(len(batch))
        ]


class Usage:
    """Counts batches, rows and busy seconds of one model; only for ``execute``, which Triton calls on one thread."""

    def __init__(self, model: str) -> None:
        counter = pb_utils.MetricFamily.COUNTER
        self._families = [pb_utils.MetricFamily(name, text, counter) for name, text in _USAGE_FAMILIES]
        self._batches, self._rows, self._seconds = (family.Metric(labels={"model": model}) for family in self._families)

    def count(self, rows: int, seconds: float) -> None:
        """Count one engine run."""
        self._batches.increment(1)
        self._rows.increment(rows)
        self._seconds.increment(seconds)


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
