"""Named blobs: the interface of every store, and the one that keeps them in a folder."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aquatint.errors import StoreUnavailable

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_PARTIAL = ".partial"
_ABANDONED_AFTER_S = 3600.0


class ObjectNotFound(Exception):
    """No object of that key."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of an object. ``modified`` is in seconds since the epoch."""

    key: str
    size: int
    modified: float


class ObjectStore(Protocol):
    """Blocking calls. Every method raises ``StoreUnavailable`` when the store cannot be used."""

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Write or replace an object; a reader sees the old one or the new one whole, never a part."""

    def get(self, key: str) -> bytes:
        """Read an object. Raises ``ObjectNotFound``."""

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``."""

    def presign(self, key: str, expires_s: int) -> str | None:
        """A URL from which anyone can read the object until it expires; ``None`` if the store has none."""

    def check(self) -> None:
        """Raises ``StoreUnavailable`` if the store cannot be used now."""


class FileObjects:
    """Objects as files under ``root``; written aside and renamed, so that a crash leaves no half file in place."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._partial = root / _PARTIAL

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Write aside, flush to the disk, rename."""
        path = self._path(key)
        partial = self._partial / uuid.uuid4().hex
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreUnavailable(f"the image folder cannot be written: {error.strerror}") from error

    def get(self, key: str) -> bytes:
        """Read the file."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise ObjectNotFound(key) from None
        except OSError as error:
            raise StoreUnavailable(f"the image folder cannot be read: {error.strerror}") from error

    def delete(self, key: str) -> None:
        """Remove the file."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"the image folder cannot be changed: {error.strerror}") from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All finished files; what an earlier crash left half-written is removed on the way."""
        self._remove_abandoned()
        for path in sorted(self._root.rglob("*")):
            key = path.relative_to(self._root).as_posix()
            if not key.startswith(prefix) or key.startswith(_PARTIAL):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                yield ObjectInfo(key, status.st_size, status.st_mtime)

    def presign(self, key: str, expires_s: int) -> str | None:
        """A folder has no URLs."""
        return None

    def check(self) -> None:
        """The folder must be writable."""
        probe = f"probe-{uuid.uuid4().hex}"
        self.put(probe, b"", "text/plain")
        self.delete(probe)

    def _remove_abandoned(self) -> None:
        before = time.time() - _ABANDONED_AFTER_S
        for path in self._partial.glob("*"):
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
            except FileNotFoundError:
                continue

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ObjectNotFound(key)
        return self._root / key
