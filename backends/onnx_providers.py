"""onnxruntime's execution providers, by a model's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime

from aquatint.contract.errors import InvalidConfiguration

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


def choose_providers(parameters: Mapping[str, str], *, kind: str, device: int) -> list[Any]:
    """Return what ``execution_providers`` lists: by default CUDA where the instance's ``kind`` is GPU, and the CPU.

    Raises ``InvalidConfiguration`` for one that is not installed.
    """
    default = f"{_CUDA},{_CPU}" if kind == "GPU" else _CPU
    names = [name.strip() for name in parameters.get("execution_providers", default).split(",")]
    # onnxruntime only warns about a missing provider, then runs on the CPU.
    if missing := set(names) - set(onnxruntime.get_available_providers()):
        raise InvalidConfiguration(f"execution_providers: this onnxruntime has no {', '.join(sorted(missing))}")
    return [(name, {"device_id": device}) if name == _CUDA else name for name in names]
