"""The export as ``aquatint serve`` and ``aquatint run`` use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

from aquatint.cli import components
from aquatint_export.candidates import repositories

# Besides our own: the configurations that are filled in.
_TEMPLATES = "aquatint_model_repository"


class Exporter(components.Exporter):
    """The entry point ``checkpoint`` of ``aquatint.exporters``."""

    def repositories(
        self, source: str, name: str, folder: Path, *, engine: str, progress: Callable[[str], None]
    ) -> Iterator[tuple[str, Path | None, str]]:
        """Yield a repository for each engine, as ``candidates.repositories`` does."""
        return repositories(source, name, folder, engine=engine, progress=progress)

    def sources(self) -> Iterator[Path]:
        """List the code of the export and the configurations of Triton's models."""
        for root in (Path(__file__).parent, Path(str(resources.files(_TEMPLATES)))):
            yield from (path for path in root.rglob("*") if path.suffix in {".py", ".pbtxt"})
