"""Snapshots in the repository: what a later run resumes from, and a card that says what they are and cost."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from aquatint_pipelines.mini.recipe import Recipe
from aquatint_pipelines.mini.training import SNAPSHOT

_STAGES = ("vae", "transformer", "judge")


def publish(recipe: Recipe, run: Path) -> list[Path]:
    """Copy the run's snapshots to where the recipe looks for them, and write their card.

    Raises ``ValueError`` for a recipe that keeps no snapshots.
    """
    if recipe.snapshots is None:
        raise ValueError(f"the recipe {recipe.name} names no folder for snapshots")
    recipe.snapshots.mkdir(parents=True, exist_ok=True)
    for stage in _STAGES:
        if (made := run / f"{stage}_training" / SNAPSHOT).is_file():
            shutil.copyfile(made, recipe.snapshots / f"{stage}.safetensors")
    published = sorted(recipe.snapshots.glob("*.safetensors"))
    (recipe.snapshots / "README.md").write_text(card(recipe, {path.stem: header(path) for path in published}))
    return published


def header(path: Path) -> dict[str, str]:
    """Read what the snapshot's file says about itself."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def card(recipe: Recipe, headers: Mapping[str, Mapping[str, str]]) -> str:
    """Write the card in Markdown."""
    rows = "\n".join(_row(stage, values) for stage, values in headers.items())
    return f"""---
license: apache-2.0
---
# Snapshots of the `{recipe.name}` recipe

EMA weights in FP16 of a training that is under way, {recipe.image_size}x{recipe.image_size}; nothing serves them yet.

| stage | steps | core-minutes | measured |
|---|---|---|---|
{rows}

PSNR is the mean in dB over whole pictures on the ten backgrounds, the background's error the mean of its corners' in
steps of 255. Held-out art is both styles of one in {recipe.vae.held_out_one_in} of the subjects that the recipe
does not draw, and was never trained on.

Go on from here, in the background: `python -m aquatint_pipelines.mini train --recipe {recipe.name}` (raise a stage's
`minutes` first if it used them up), then `python -m aquatint_pipelines.mini snapshot --recipe {recipe.name}`.
Data and licences: `../dataset/README.md`.
"""


def _row(stage: str, values: Mapping[str, str]) -> str:
    measured = ", ".join(f"{name.replace('_', ' ')} {values[name]}" for name in sorted(values) if name not in _COST)
    return f"| {stage} | {values['step']} | {float(values['core_seconds']) / 60.0:.1f} | {measured} |"


_COST = frozenset({"step", "seconds", "core_seconds", "warm_steps"})
