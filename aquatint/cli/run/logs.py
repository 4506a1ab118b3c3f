"""The logs of programs and stages."""

from __future__ import annotations

from pathlib import Path


def tail(log: Path, lines: int) -> str:
    """Return the last lines of ``log``, or nothing if there is no such file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else ""
