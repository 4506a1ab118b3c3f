"""How the predictions for several conditionings become one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def guide(
    unconditional: NDArray[np.float32], conditional: NDArray[np.float32], guidance_scale: float
) -> NDArray[np.float32]:
    """Apply classifier-free guidance (Ho and Salimans 2022); any shape."""
    return unconditional + np.float32(guidance_scale) * (conditional - unconditional)
