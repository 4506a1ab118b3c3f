"""Folders that are replaced whole."""

from __future__ import annotations

import shutil
from pathlib import Path


def replace_folder(partial: Path, final: Path) -> None:
    """Put the finished folder ``partial`` in the place of ``final``; a kill in between loses neither."""
    stale = final.with_name(f"{final.name}.stale")
    shutil.rmtree(stale, ignore_errors=True)
    if final.is_dir():
        final.rename(stale)
    partial.rename(final)
    shutil.rmtree(stale, ignore_errors=True)
