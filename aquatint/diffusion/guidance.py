"""How the predictions for several conditionings become one."""

from __future__ import annotations

from typing import Any

import numpy as np


def guide(unconditional: Any, conditional: Any, guidance_scale: float) -> Any:
    """Apply classifier-free guidance (Ho and Salimans 2022); any shape, on any device."""
    return unconditional + np.float32(guidance_scale) * (conditional - unconditional)
