"""The parity gate's bounds and arithmetic, without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aquatint_export import parity
from numpy.typing import NDArray

from aquatint.contract.errors import ModelRejected

REFERENCE = np.full((4, 4), 2.0, np.float32)
COMPONENT: Any = SimpleNamespace(name="transformer", outputs=[SimpleNamespace(name="noise_pred")])


def check(dtype: str, *outputs: NDArray[Any]) -> parity.ParityReport:
    """The report of a component that gives ``outputs`` where torch gives ``REFERENCE``, one input after the other."""
    report, left = parity.new_report(dtype), list(outputs)
    references: Any = [({}, [REFERENCE]) for _ in outputs]
    parity.check_component(report, COMPONENT, references, lambda *_: {"noise_pred": left.pop(0)})
    return report


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 1e-4), ("fp16", 2e-2), ("bf16", 8e-2)])
def test_a_component_passes_just_under_its_bound(dtype: str, bound: float) -> None:
    assert parity.conclude(check(dtype, REFERENCE * (1 + 0.9 * bound))).components["transformer"] < bound
    with pytest.raises(ModelRejected, match="nothing is published: transformer: relative error"):
        parity.conclude(check(dtype, REFERENCE * (1 + 1.1 * bound)))


@pytest.mark.parametrize("place", [0, 1])
def test_the_worst_input_counts(place: int) -> None:
    outputs = [REFERENCE, REFERENCE]
    outputs[place] = REFERENCE * 1.5
    assert check("fp32", *outputs).components["transformer"] == pytest.approx(0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_fail(value: float) -> None:
    spoilt = REFERENCE.copy()
    spoilt[0, 0] = value
    assert check("bf16", spoilt).failures


def test_relative_error_is_relative() -> None:
    reference = np.array([3.0, 4.0], np.float32)
    assert parity.relative_error(reference + np.array([0.0, 1.0], np.float32), reference) == pytest.approx(0.2)
    assert parity.relative_error(100 * reference, 100 * reference) == 0


def test_psnr() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    nearly = np.full_like(black, 1)
    assert parity.psnr(black, black) == 99.0
    assert parity.psnr(black, ~black) == pytest.approx(0.0)
    # UINT8 differences must not wrap.
    assert parity.psnr(nearly, black) == parity.psnr(black, nearly) == pytest.approx(48.13, abs=0.01)


@pytest.mark.parametrize(("dtype", "off_by", "passes"), [("fp32", 0, True), ("fp32", 1, False), ("fp16", 14, True)])
def test_images_are_compared(dtype: str, off_by: int, passes: bool) -> None:
    expected = np.full((8, 8, 3), 100, np.uint8)
    report = parity.new_report(dtype)
    parity.check_images(report, [expected, expected], lambda _: expected + np.uint8(off_by))
    assert len(report.images_db) == 2
    assert (not report.failures) is passes
