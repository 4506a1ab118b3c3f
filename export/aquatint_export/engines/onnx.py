"""The ONNX files themselves, by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

from aquatint_export.options import ExportOptions, Target
from aquatint_export.stages import ComponentEngine, Description, Exported


class OnnxEngine(ComponentEngine):
    """Serves what was traced as it is."""

    preference = 1

    def check(self, options: ExportOptions) -> str:
        """Return what runs the files."""
        return "the ONNX files are served as they are"

    def usual_options(self, name: str) -> tuple[ExportOptions, str]:
        """Return FP32 on the CPU, which works everywhere."""
        return ExportOptions(name=name), "exported to ONNX and past the parity gate"

    def build(self, exported: Exported, progress: Callable[[str], None]) -> Description:
        """Write the configurations beside the files."""
        for traced in exported.traced:
            exported.write_model(traced, engine="onnx", on_gpu=exported.options.target is Target.NGC)
        return {}


ENGINE = OnnxEngine()
