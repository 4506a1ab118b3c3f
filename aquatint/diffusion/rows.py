"""Batches larger than a call may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Named inputs or outputs of a component; arrays of numpy, or of a device.
Tensors = dict[str, Any]


def join(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Join the rows of arrays; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def call_in_parts(
    call: Callable[[Tensors], Any], inputs: Tensors, max_rows: int, *, join: Callable[[Sequence[Any]], Any] = join
) -> Any:
    """Call ``call`` with at most ``max_rows`` rows of every input at a time; ``join`` the rows of all its answers."""
    rows = len(next(iter(inputs.values())))
    if rows <= max_rows:
        return call(inputs)
    starts = range(0, rows, max_rows)
    return join([call({name: value[at : at + max_rows] for name, value in inputs.items()}) for at in starts])
