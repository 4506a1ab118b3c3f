"""Checkpoint to ONNX to a Triton model repository, behind a parity gate. Knows nothing about serving."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aquatint_export.byol import publish_pipeline
    from aquatint_export.choose import repositories
    from aquatint_export.repository import export_checkpoint
    from aquatint_export.tensorrt_build import EngineOptions
    from aquatint_export.triton_config import TARGETS, Target

__all__ = ["TARGETS", "EngineOptions", "Target", "export_checkpoint", "publish_pipeline", "repositories"]

# Imported when first asked for, since the command line imports this package at every start and these need torch.
_HOMES = {
    "TARGETS": "triton_config",
    "EngineOptions": "tensorrt_build",
    "Target": "triton_config",
    "export_checkpoint": "repository",
    "publish_pipeline": "byol",
    "repositories": "choose",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
