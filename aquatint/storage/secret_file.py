"""Secrets that are created once and kept in a file, readable only by its owner."""

from __future__ import annotations

import contextlib
import secrets
import uuid
from pathlib import Path


def read_or_create(path: Path) -> bytes:
    """Return the secret in ``path``, created from 256 random bits if missing; racing processes get the same one.

    Raises ``OSError`` if the file can neither be read nor made.
    """
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(32))
        # A link, unlike a rename, fails if another process was first.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(fresh)
        fresh.unlink()
    return path.read_bytes()
