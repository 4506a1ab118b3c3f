"""The transformer in torch with the checkpoint's own weights, compiled on a GPU; the rest from ONNX files."""

from __future__ import annotations

from collections.abc import Callable

import torch

from aquatint_export import repository
from aquatint_export.options import ExportOptions, Target
from aquatint_export.stages import ComponentEngine, Description, Exported


class TorchEngine(ComponentEngine):
    """Puts the weights in the place of the transformer's ONNX file."""

    def check(self, options: ExportOptions) -> str:
        """Return what runs the transformer."""
        return f"torch {torch.__version__} runs the transformer"

    def usual_options(self, name: str) -> tuple[ExportOptions, str]:
        """Return the options for ``name``."""
        return ExportOptions(name=name, engine="torch"), "torch runs the transformer"

    def build(self, exported: Exported, progress: Callable[[str], None]) -> Description:
        """Write the models; the transformer's weights are copied."""
        for traced in exported.traced:
            if traced.component.name != "transformer":
                exported.write_model(traced, engine="onnx", on_gpu=exported.options.target is Target.NGC)
                continue
            # Torch chooses its own device.
            version = exported.write_model(traced, engine="torch", on_gpu=False)
            repository.remove_onnx(version)
            repository.copy_checkpoint(exported.checkpoint.folder / "transformer", version / "transformer")
        return {"transformer": {"engine": {"library": "torch"}}}

    def unverified_dtype(self, options: ExportOptions) -> str | None:
        """Return the precision torch computes in, whatever the other components have."""
        return "bf16" if torch.cuda.is_available() else options.dtype


ENGINE = TorchEngine()
