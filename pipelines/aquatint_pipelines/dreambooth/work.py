"""Where a training run keeps its state, so that a killed step resumes when it is retried."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aquatint_pipelines.dreambooth import data
from aquatint_pipelines.dreambooth.recipe import DreamboothRecipe


def run_folder(work: Path, *, checkpoint: str, dataset: Path, recipe: DreamboothRecipe) -> Path:
    """Return the folder of this checkpoint, dataset and recipe, under ``work``: a volume that outlives the step."""
    parts = (checkpoint, data.read(dataset).content_hash, recipe.model_dump_json())
    return work / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
