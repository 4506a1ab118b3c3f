"""No weights: a call takes ``step_ms``, whatever is in it. It measures everything else, at any model's size.

Arrays are kept as a GPU keeps them: copied when a request joins and when it leaves, out of the host's sight between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from aquatint_backends.denoiser.engines import Place
from numpy.typing import NDArray

from aquatint.contract.errors import InvalidConfiguration
from aquatint.diffusion.rows import Tensors


class _Resident:
    """An array of the device: its shape is known here, its values are not."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> _Resident:
        return _Resident((len(range(*rows.indices(self.shape[0]))), *self.shape[1:]))

    def _computed(self, _: Any) -> _Resident:
        return _Resident(self.shape)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _computed
    # numpy's scalars would otherwise take this for an array of objects.
    __array_ufunc__ = None


class _Device:
    """Copies in and out, and joins without looking."""

    def from_host(self, array: NDArray[np.float32]) -> _Resident:
        """Copy an array, as over a bus."""
        np.copy(array)
        return _Resident(array.shape)

    def to_host(self, array: _Resident) -> NDArray[np.float32]:
        """Return as many zeros."""
        return np.zeros(array.shape, np.float32)

    def join(self, arrays: Sequence[_Resident]) -> _Resident:
        """Join the rows of arrays."""
        return arrays[0] if len(arrays) == 1 else _Resident((sum(map(len, arrays)), *arrays[0].shape[1:]))


class TimedEngine:
    """Sleeps for every call."""

    def __init__(self, step_s: float) -> None:
        self.arrays = _Device()
        self._step_s = step_s

    def __call__(self, inputs: Tensors) -> _Resident:
        """Take the time of one evaluation."""
        time.sleep(self._step_s)
        return _Resident(inputs["hidden_states"].shape)


def open_engine(place: Place) -> TimedEngine:
    """Read ``step_ms``. Raises ``InvalidConfiguration`` without it."""
    try:
        return TimedEngine(float(place.parameters["step_ms"]) / 1000)
    except (KeyError, ValueError):
        raise InvalidConfiguration("step_ms: the timed engine needs the milliseconds of a call") from None
