"""Model repositories appear whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

from aquatint.contract.errors import InvalidConfiguration
from aquatint.repository import manifest as manifests
from aquatint.repository.manifest import Manifest


class Publication:
    """A repository in the making: ``folder`` is written first, and takes the place of ``out`` when it is published.

    Raises ``InvalidConfiguration`` if ``out`` holds something that no export made.
    """

    def __init__(self, out: Path) -> None:
        if out.exists() and not (out / manifests.FILE_NAME).is_file() and any(out.iterdir()):
            raise InvalidConfiguration(f"{out.name} exists and is no model repository of ours; choose another folder")
        self._out = out

    def __enter__(self) -> Publication:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, because only renaming within a file system is atomic.
        self._scratch = tempfile.TemporaryDirectory(dir=self._out.parent, prefix=f".{self._out.name}-")
        self.folder = Path(self._scratch.name) / "repository"
        self.folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scratch.cleanup()

    def publish(self, manifest: Manifest) -> None:
        """Write the manifest and put the folder in the place of ``out``."""
        (self.folder / manifests.FILE_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")
        if self._out.exists():
            self._out.rename(Path(self._scratch.name) / "previous")
        self.folder.rename(self._out)
