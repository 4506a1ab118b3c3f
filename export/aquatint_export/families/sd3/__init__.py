"""Stable Diffusion 3 and 3.5: two CLIP encoders and T5, each of which may be absent, an MMDiT, a VAE."""

from __future__ import annotations

from pathlib import Path

from aquatint_export.families import Checkpoint
from aquatint_export.families.sd3 import checkpoint
from aquatint_export.options import ExportOptions


class StableDiffusion3:
    """Loads checkpoints of diffusers' ``StableDiffusion3Pipeline``."""

    pipeline_class = "StableDiffusion3Pipeline"

    def load(self, folder: Path, source: str, options: ExportOptions) -> Checkpoint:
        """Load a folder. Raises ``ModelRejected``."""
        return checkpoint.load(folder, source, low_memory=options.low_memory, drop=options.drop)


FAMILY = StableDiffusion3()
