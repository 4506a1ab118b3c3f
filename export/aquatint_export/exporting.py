"""A checkpoint to a Triton model repository: load, trace, verify, build, publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aquatint.repository.manifest import Manifest
from aquatint_export import engines
from aquatint_export.options import ExportOptions
from aquatint_export.publish import Publication


def export_checkpoint(
    source: str,
    out: Path,
    options: ExportOptions | None = None,
    *,
    progress: Callable[[str], None] = lambda stage: None,
) -> Manifest:
    """Export ``source``, a diffusers folder or hub id, and publish the model repository at ``out``.

    What an earlier export put at ``out`` is replaced; if anything fails, it is as it was. ``progress`` is told the name
    of every stage. Raises ``ModelRejected`` if the checkpoint cannot be used or parity fails, ``InvalidConfiguration``
    if the options cannot be, or ``out`` holds something else, ``DependencyMissing`` and ``HubUnavailable``.
    """
    options = options or ExportOptions()
    engine = engines.find(options.engine)
    # Before the long work: a missing library is told at once.
    progress(engine.check(options))
    with Publication(out) as publication:
        manifest = engine.export(source, options, publication.folder, progress)
        progress("publish")
        publication.publish(manifest)
    return manifest
