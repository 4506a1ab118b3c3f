"""The demo checkpoint and the model repository made from it, which is rebuilt when either side changes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from aquatint.cli import components
from aquatint.cli.run.logs import tail
from aquatint.contract.errors import DependencyMissing, ModelRejected
from aquatint.repository import manifest

_PACKAGE = "aquatint_mini"
_TAIL_LINES = 15


def bundled_checkpoint() -> Path:
    """Find the demo checkpoint's folder. Raises ``DependencyMissing`` if its package is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DependencyMissing(
            "the demo checkpoint is not installed: pip install aquatint-mini, or name a --checkpoint"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def is_current(repository: Path, checkpoint: str) -> tuple[bool, str]:
    """Return whether ``repository`` can be served as it is, and why."""
    described = repository / manifest.FILE_NAME
    if not described.is_file():
        return False, "there is none yet"
    written = _read_stamp(repository)
    if written is None or written["manifest"] != manifest.sha256(described):
        return True, "something else was put there since then, and is kept"
    if written["inputs"] != _inputs(checkpoint):
        return False, "the checkpoint or the export changed"
    return True, "nothing changed since it was exported"


def export(checkpoint: str, repository: Path, log: Path) -> None:
    """Export in a separate process. Raises ``ModelRejected`` with the end of its log."""
    command = [sys.executable, "-m", "aquatint.cli.app", "export", checkpoint, "--out", str(repository)]
    with log.open("wb") as file:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False)
    if done.returncode != 0:
        raise ModelRejected(f"the export failed; the end of {log}:\n{tail(log, _TAIL_LINES)}")
    stamp = {"inputs": _inputs(checkpoint), "manifest": manifest.sha256(repository / manifest.FILE_NAME)}
    _stamp(repository).write_text(json.dumps(stamp))


def _stamp(repository: Path) -> Path:
    return repository.with_name(f".{repository.name}.json")


def _read_stamp(repository: Path) -> dict[str, str] | None:
    try:
        stamp = json.loads(_stamp(repository).read_text())
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) and {"inputs", "manifest"} <= stamp.keys() else None


def _inputs(checkpoint: str) -> str:
    """Hash what an export depends on: the exporter's own files and the checkpoint's."""
    digest = hashlib.sha256(checkpoint.encode())
    for path in sorted(components.exporter().sources()):
        digest.update(path.read_bytes())
    for path in sorted(Path(checkpoint).rglob("*.safetensors")):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
