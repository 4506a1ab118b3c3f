"""Where a request's latents and conditioning are kept while it is denoised: on the host, or beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aquatint.diffusion import rows


class Arrays(Protocol):
    """The arrays of a device. They have numpy's operators and slices, and a ``shape``; the first axis is rows."""

    def from_host(self, array: NDArray[np.float32]) -> Any:
        """Copy an array to the device."""

    def to_host(self, array: Any) -> NDArray[np.float32]:
        """Copy an array from the device, waiting until it is computed."""

    def join(self, arrays: Sequence[Any]) -> Any:
        """Join the rows of arrays; a single one is not copied."""


class HostArrays:
    """Arrays of numpy."""

    def from_host(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the array."""
        return array

    def to_host(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the array."""
        return array

    def join(self, arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Join the rows of arrays; a single one is not copied."""
        return rows.join(arrays)


HOST = HostArrays()
