"""A checkpoint to a model repository for the best engine that works here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from aquatint.contract.errors import AquatintError, ModelRejected
from aquatint.repository import manifest as manifests
from aquatint_export import engines
from aquatint_export.exporting import export_checkpoint


def repositories(
    source: str, name: str, folder: Path, *, engine: str, progress: Callable[[str], None]
) -> Iterator[tuple[str, Path | None, str]]:
    """Yield candidates, best first: the engine, its repository or ``None`` where there can be none, and why.

    ``engine`` is one of ``engines.names()`` or ``auto`` for all that are preferred. Repositories are kept under
    ``folder`` and used again while the checkpoint does not change.
    """
    for candidate in engines.preferred() if engine == "auto" else [engine]:
        out = folder / f"{name}-{candidate}"
        try:
            options, why = engines.find(candidate).usual_options(name)
            if not _is_current(source, out):
                export_checkpoint(source, out, options, progress=progress)
        except AquatintError as error:
            yield candidate, None, str(error)
        else:
            yield candidate, out, why


def _is_current(source: str, out: Path) -> bool:
    """Return whether ``out`` was made from this checkpoint as it is now; a hub id is taken not to change."""
    try:
        made = manifests.read(out)
    except ModelRejected:
        return False
    folder = Path(source)
    if not folder.is_dir():
        return made.source == source
    written = (out / manifests.FILE_NAME).stat().st_mtime
    changed = any(path.stat().st_mtime >= written for path in folder.rglob("*") if path.is_file())
    return made.source == folder.name and not changed
