"""Model repositories appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

from aquatint.contract.errors import InvalidConfiguration
from aquatint.repository import manifest as manifests
from aquatint.repository.manifest import Manifest


def check_replaceable(out: Path) -> None:
    """Raises ``InvalidConfiguration`` if ``out`` holds something that no export of ours made."""
    if out.exists() and not (out / manifests.FILE_NAME).is_file() and any(out.iterdir()):
        raise InvalidConfiguration(f"{out.name} exists and is no model repository of ours; choose another folder")


def publish(manifest: Manifest, staging: Path, out: Path, scratch: Path) -> None:
    """Write the manifest into ``staging`` and put it in the place of ``out``; what was there goes to ``scratch``."""
    (staging / manifests.FILE_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")
    if out.exists():
        out.rename(scratch / "previous")
    staging.rename(out)
