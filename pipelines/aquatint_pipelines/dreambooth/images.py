"""Where images come from: a folder, a zip or tar archive, or an S3 prefix, read without trusting any of them.

Nothing is ever unpacked to disk: members are read into memory one at a time, so a hostile name has nowhere to go.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aquatint.contract.errors import InvalidRequest
from aquatint.storage import open_objects

MAX_FILES = 2000
MAX_FILE_BYTES = 64 << 20
MAX_TOTAL_BYTES = 4 << 30


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: its name there, and its bytes."""

    name: str
    data: bytes


def read(source: str) -> Iterator[SourceFile]:
    """Yield every file of ``source``, sorted by name.

    Raises ``InvalidRequest`` for a missing source, an archive with members that point out of it or are links
    or devices, or more than the limits allow; ``StoreUnavailable`` if S3 cannot be read.
    """
    if source.startswith("s3://"):
        files = _from_s3(source)
    else:
        path = Path(source)
        if path.is_dir():
            files = _from_folder(path)
        elif path.is_file() and zipfile.is_zipfile(path):
            files = _from_zip(path)
        elif path.is_file() and tarfile.is_tarfile(path):
            files = _from_tar(path)
        else:
            raise InvalidRequest(f"pictures: {source} is no folder, zip, tar or s3:// prefix")
    total = 0
    for count, file in enumerate(files, start=1):
        total += len(file.data)
        if count > MAX_FILES or total > MAX_TOTAL_BYTES:
            raise InvalidRequest(f"pictures: more than {MAX_FILES} files or {MAX_TOTAL_BYTES >> 30} GiB")
        yield file


def _checked_size(name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InvalidRequest(f"pictures: {name} has {size} bytes, more than {MAX_FILE_BYTES}")


def _checked_member(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise InvalidRequest(f"pictures: the archive's member {name!r} points out of it")
    return str(path)


def _from_folder(folder: Path) -> Iterator[SourceFile]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise InvalidRequest(f"pictures: {path.name} is a link")
        if path.is_file():
            _checked_size(path.name, path.stat().st_size)
            yield SourceFile(path.relative_to(folder).as_posix(), path.read_bytes())


def _from_zip(path: Path) -> Iterator[SourceFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.infolist(), key=lambda info: info.filename):
                name = _checked_member(member.filename)
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise InvalidRequest(f"pictures: the archive's member {name!r} is a link")
                if member.is_dir():
                    continue
                # The size a member claims may be a lie, so one byte more than the limit is read.
                _checked_size(name, member.file_size)
                with archive.open(member) as file:
                    data = file.read(MAX_FILE_BYTES + 1)
                _checked_size(name, len(data))
                yield SourceFile(name, data)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InvalidRequest(f"pictures: the zip cannot be read: {error}") from error


def _from_tar(path: Path) -> Iterator[SourceFile]:
    try:
        with tarfile.open(path) as archive:
            for member in sorted(archive.getmembers(), key=lambda info: info.name):
                name = _checked_member(member.name)
                if member.isdir():
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None:
                    raise InvalidRequest(f"pictures: the archive's member {name!r} is a link or device")
                _checked_size(name, member.size)
                yield SourceFile(name, file.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidRequest(f"pictures: the tar cannot be read: {error}") from error


def _from_s3(url: str) -> Iterator[SourceFile]:
    store = open_objects(url)
    for info in sorted(store.list(""), key=lambda info: info.key):
        _checked_size(info.key, info.size)
        yield SourceFile(info.key, store.get(info.key))
