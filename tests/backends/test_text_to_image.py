"""The text-to-image model's queue, without Triton; the rest of the model is tested in a real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from aquatint.contract.errors import Overloaded
from tests import triton_stub


@pytest.fixture
def admission(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make room for two that run and three that wait."""
    triton_stub.install(monkeypatch)
    before = set(sys.modules)
    from aquatint_backends.text_to_image.base import Admission  # noqa: PLC0415 - only importable over the stub

    yield Admission(2, 3)
    for name in set(sys.modules) - before:
        if name.startswith("aquatint_backends.text_to_image"):
            del sys.modules[name]


def test_exactly_so_many_are_let_in(admission: Any) -> None:
    for _ in range(5):
        admission.enter()
    with pytest.raises(Overloaded, match="5 requests are already running or queued") as refused:
        admission.enter()
    assert refused.value.retry_after_s == 1.0
    admission.leave()
    admission.enter()
    assert admission.admitted == 5


def test_exactly_so_many_run(admission: Any) -> None:
    assert admission.acquire(0.0)
    assert admission.acquire(0.0)
    assert not admission.acquire(0.0)
    admission.release()
    assert admission.acquire(0.0)
