"""Requests that Triton hands over together: which run as one batch, and who gets which rows."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import triton_stub
from tests.triton_stub import InferenceResponse, Request, TritonError

BATCHING = "aquatint_backends.batching"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    yield triton_stub.install(monkeypatch)
    # It was imported over the stub, which is gone now.
    sys.modules.pop(BATCHING, None)


@pytest.fixture
def backend(counted: dict[str, float]) -> Any:
    """Make a backend that adds ``bias`` to ``x`` and fails on negative numbers; ``batches`` are the shapes it got."""

    class Adding(importlib.import_module(BATCHING).BatchedBackend):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inputs, self.outputs, self.scalars = ["x", "bias"], ["sum"], {"bias"}
            self.batches: list[tuple[int, ...]] = []
            self.count_usage("adding")

        def run(self, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            self.batches.append(feed["x"].shape)
            if (feed["x"] < 0).any():
                raise RuntimeError("negative")
            assert feed["bias"].shape == (len(feed["x"]),)
            return [feed["x"] + feed["bias"][:, None]]

    return Adding()


def ask(rows: int, columns: int, start: float) -> Request:
    x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) + np.float32(start)
    return Request(x=x, bias=np.full((rows, 1), start, np.float32))


def answer(request: Request) -> NDArray[Any]:
    summed: NDArray[Any] = request.inputs["x"].as_numpy() + request.inputs["bias"].as_numpy()
    return summed


def test_what_fits_together_runs_together(backend: Any, counted: dict[str, float]) -> None:
    requests = [ask(1, 3, 10), ask(2, 4, 20), ask(3, 3, 30), ask(1, 4, 40)]
    responses: list[InferenceResponse] = backend.execute(requests)
    assert sorted(backend.batches) == [(3, 4), (4, 3)]
    for request, response in zip(requests, responses, strict=True):
        np.testing.assert_array_equal(response.tensors["sum"], answer(request))
    assert counted["aquatint_engine_batches_total"] == 2
    assert counted["aquatint_engine_rows_total"] == 7
    assert counted["aquatint_engine_busy_seconds_total"] > 0


def test_other_dtypes_are_other_batches(backend: Any) -> None:
    double = Request(x=np.ones((1, 3)), bias=np.ones((1, 1)))
    backend.execute([ask(1, 3, 0), double])
    assert backend.batches == [(1, 3), (1, 3)]


def test_a_failure_is_its_batch_s_alone(backend: Any) -> None:
    requests = [ask(1, 3, -100), ask(2, 4, 20), ask(1, 3, 5)]
    failed, fine, same_batch = backend.execute(requests)
    for response in (failed, same_batch):
        assert response.error.code == TritonError.INTERNAL
        assert "the engine failed: negative" in str(response.error)
    # Triton frees every response it is given.
    assert failed is not same_batch
    np.testing.assert_array_equal(fine.tensors["sum"], answer(requests[1]))


def test_a_missing_input_is_named(backend: Any) -> None:
    wrong, fine = backend.execute([Request(x=np.ones((1, 3), np.float32)), ask(1, 3, 0)])
    assert (str(wrong.error), wrong.error.code) == ("input bias is missing", TritonError.INVALID_ARG)
    assert fine.error is None
    assert backend.batches == [(1, 3)]
