"""``manifest.json``: what a model repository holds, where it came from, and the sha256 of every file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from aquatint.contract.errors import ModelRejected

FILE_NAME = "manifest.json"


class Manifest(BaseModel):
    """The repository's description. ``files`` maps relative paths to sha256; ``engine`` runs the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    engine: str
    source: str
    licence: str
    target: str
    dtype: str
    components: dict[str, dict[str, Any]]
    parity: dict[str, Any]
    tools: dict[str, str]
    files: dict[str, str]


def sha256(path: Path) -> str:
    """Return the hex digest of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(root: Path) -> dict[str, str]:
    """Map every file under ``root`` except the manifest, by its POSIX path relative to ``root``, to its sha256."""
    paths = sorted(p for p in root.rglob("*") if p.is_file() and p.name != FILE_NAME)
    return {path.relative_to(root).as_posix(): sha256(path) for path in paths}


def read(repository: Path) -> Manifest:
    """Read a repository's manifest. Raises ``ModelRejected`` if it is missing or not valid."""
    path = repository / FILE_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelRejected("the model repository has no manifest.json; make it with 'aquatint export'") from None
    except ValidationError as error:
        raise ModelRejected("the model repository's manifest.json is not valid: export it again") from error


def verify(repository: Path) -> Manifest:
    """Check every file against the manifest. Raises ``ModelRejected`` for a changed or missing file."""
    manifest = read(repository)
    for name, expected in manifest.files.items():
        path = repository / name
        if not path.is_file():
            raise ModelRejected(f"the model repository lacks {name}")
        if sha256(path) != expected:
            raise ModelRejected(f"{name} was changed after the export")
    return manifest
