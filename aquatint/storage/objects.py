"""Named blobs: the interface of every store, and the one that keeps them in a folder."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from aquatint.contract.errors import StoreUnavailable

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_PARTIAL = ".partial"
_ABANDONED_AFTER_S = 3600.0


class ObjectNotFound(Exception):
    """There is no object with that key."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says about an object. ``modified`` is in seconds since the epoch."""

    key: str
    size: int
    modified: float


class ObjectStore(Protocol):
    """Blocking calls. Every method raises ``StoreUnavailable`` when the store cannot be used."""

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Write or replace an object; a reader sees the whole old one or the whole new one, never a part."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if its key is not taken; return whether it was written. One of several callers wins."""

    def upload(self, key: str, path: Path) -> None:
        """Put a file of any size."""

    def get(self, key: str) -> bytes:
        """Read an object. Raises ``ObjectNotFound``."""

    def download(self, key: str, path: Path) -> None:
        """Get an object of any size into a file. Raises ``ObjectNotFound``."""

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List all objects whose key starts with ``prefix``."""

    def presign(self, key: str, expires_s: int) -> str | None:
        """Return a URL where anyone can read the object until it expires, or ``None`` if the store has none."""

    def check(self) -> None:
        """Raise ``StoreUnavailable`` if the store cannot be used now."""


class FileObjects:
    """Objects as files under ``root``, written to a temporary name and renamed, so that a crash leaves no half file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._partial = root / _PARTIAL

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Write to a temporary name, flush to the disk, rename."""
        self._write(key, io.BytesIO(data), Path.replace)

    def create(self, key: str, data: bytes) -> bool:
        """Write to a temporary name, then link: unlike a rename, that fails if another was first."""
        try:
            self._write(key, io.BytesIO(data), _link)
        except FileExistsError:
            return False
        return True

    def upload(self, key: str, path: Path) -> None:
        """Copy to a temporary name, flush to the disk, rename."""
        with path.open("rb") as source:
            self._write(key, source, Path.replace)

    def _write(self, key: str, source: IO[bytes], move: Callable[[Path, Path], object]) -> None:
        path = self._path(key)
        partial = self._partial / uuid.uuid4().hex
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as file:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            move(partial, path)
        except FileExistsError:
            raise
        except OSError as error:
            raise StoreUnavailable(f"the folder cannot be written: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        """Read the file."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise ObjectNotFound(key) from None
        except OSError as error:
            raise StoreUnavailable(f"the folder cannot be read: {error.strerror}") from error

    def download(self, key: str, path: Path) -> None:
        """Copy the file."""
        try:
            shutil.copyfile(self._path(key), path)
        except FileNotFoundError:
            raise ObjectNotFound(key) from None
        except OSError as error:
            raise StoreUnavailable(f"the folder cannot be read: {error.strerror}") from error

    def delete(self, key: str) -> None:
        """Remove the file."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"the folder cannot be changed: {error.strerror}") from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List all finished files; what an earlier crash wrote only in part is removed on the way."""
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
        """Return ``None``: a folder has no URLs."""
        return None

    def check(self) -> None:
        """Check that the folder is writable."""
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


def _link(source: Path, target: Path) -> None:
    target.hardlink_to(source)
