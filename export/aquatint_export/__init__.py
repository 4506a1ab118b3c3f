"""Checkpoint to ONNX to a Triton model repository, behind a parity gate. Knows nothing about serving."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aquatint_export.options import Dtype, ExportOptions, Target, TensorRTOptions

if TYPE_CHECKING:
    from aquatint_export.candidates import repositories
    from aquatint_export.exporting import export_checkpoint

__all__ = ["Dtype", "ExportOptions", "Target", "TensorRTOptions", "export_checkpoint", "repositories"]

# Imported when first asked for, since the command line imports this package at every start and these need torch.
_HOMES = {"export_checkpoint": "exporting", "repositories": "candidates"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
