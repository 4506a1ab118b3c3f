"""Checkpoint to ONNX to a Triton model repository, behind a parity gate. Knows nothing about serving."""

from aquatint_export.byol import publish_pipeline
from aquatint_export.choose import repositories
from aquatint_export.repository import export_checkpoint
from aquatint_export.tensorrt_build import EngineOptions
from aquatint_export.triton_config import TARGETS, Target

__all__ = ["TARGETS", "EngineOptions", "Target", "export_checkpoint", "publish_pipeline", "repositories"]
