"""Folders that are replaced as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path


def replace_folder(partial: Path, final: Path) -> None:
    """Put the finished folder ``partial`` in the place of ``final``; ``settle_folder`` undoes a kill in between."""
    stale = _stale(final)
    shutil.rmtree(stale, ignore_errors=True)
    if final.is_dir():
        final.rename(stale)
    partial.rename(final)
    shutil.rmtree(stale, ignore_errors=True)


def settle_folder(final: Path) -> None:
    """Undo a ``replace_folder`` that was killed between its two renames: the old folder returns."""
    if _stale(final).is_dir() and not final.exists():
        _stale(final).rename(final)


def _stale(final: Path) -> Path:
    return final.with_name(f"{final.name}.stale")
