"""Versions of a model: ``models/<name>/<version>/…`` in any object store, never overwritten.

A version exists once its ``version.json`` is written, which happens last: an interrupted upload leaves nothing that
anyone sees. The pointer ``models/<name>/latest`` names the version in use; it is written after everything else.
"""

from __future__ import annotations

import datetime
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from aquatint.contract.errors import InvalidRequest, ModelNotFound, ModelRejected, StoreUnavailable
from aquatint.repository.manifest import sha256
from aquatint.storage import ObjectNotFound, ObjectStore

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_DESCRIPTION = "version.json"
_RESERVATION = "reserved"
_POINTER = "latest"
_JSON = "application/json"
_ABANDONED_AFTER = datetime.timedelta(days=1)


class StoredFile(BaseModel):
    """One file of a version; size in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    size: int


class Version(BaseModel):
    """What a version holds. ``facts`` is whatever its publisher wants to record: scores, sources, parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int
    created: datetime.datetime
    facts: dict[str, Any]
    files: dict[str, StoredFile]


class Pointer(BaseModel):
    """The version in use, and those in use before it, the most recent first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    earlier: list[int] = []


class Registry:
    """The versions of one model in ``store``. Methods raise ``StoreUnavailable`` when the store fails."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"name: must be lower-case letters, digits, '.', '_' and '-', is {name!r}")
        self._store = store
        self.name = name

    def prefix(self, version: int) -> str:
        """Return the prefix of a version's keys in the store."""
        return f"models/{self.name}/{version}/"

    def publish(self, files: Mapping[str, Path], facts: dict[str, Any]) -> Version:
        """Upload files, by their names in the version, as the next version.

        Every file is read back and compared before the version appears. Raises ``InvalidRequest`` if there are no
        files, ``ModelRejected`` if the store returns a file changed.
        """
        if not files:
            raise InvalidRequest("files: there is nothing to publish")
        version = self._reserve()
        stored = {}
        for name, path in sorted(files.items()):
            stored[name] = StoredFile(sha256=sha256(path), size=path.stat().st_size)
            self._store.upload(self.prefix(version) + name, path)
            self._check(version, name, stored[name])
        created = datetime.datetime.now(datetime.UTC)
        described = Version(name=self.name, version=version, created=created, facts=facts, files=stored)
        text = described.model_dump_json(indent=1)
        self._store.put(self.prefix(version) + _DESCRIPTION, text.encode(), _JSON)
        return described

    def versions(self) -> list[Version]:
        """List every complete version, the oldest first."""
        return [self.version(number) for number in sorted(self._numbers(_DESCRIPTION))]

    def version(self, number: int) -> Version:
        """Describe one version. Raises ``ModelNotFound``, or ``ModelRejected`` if its description is damaged."""
        try:
            return Version.model_validate_json(self._store.get(self.prefix(number) + _DESCRIPTION))
        except ObjectNotFound:
            raise ModelNotFound(f"there is no version {number} of {self.name}") from None
        except ValidationError as error:
            raise ModelRejected(f"the description of version {number} of {self.name} is damaged") from error

    def latest(self) -> Pointer | None:
        """Return the version in use, if one was ever promoted. Raises ``ModelRejected`` if the pointer is damaged."""
        try:
            return Pointer.model_validate_json(self._store.get(f"models/{self.name}/{_POINTER}"))
        except ObjectNotFound:
            return None
        except ValidationError as error:
            raise ModelRejected(f"the pointer of {self.name} is damaged; promote a version again") from error

    def promote(self, number: int) -> Pointer:
        """Make a version the one in use. Raises ``ModelNotFound``."""
        self.version(number)
        now = self.latest()
        earlier = [] if now is None else [now.version, *now.earlier]
        return self._point(Pointer(version=number, earlier=[each for each in earlier if each != number]))

    def previous(self) -> int:
        """Return the version that ``roll_back`` returns to. Raises ``ModelNotFound`` if there was none before."""
        now = self.latest()
        if now is None or not now.earlier:
            raise ModelNotFound(f"no version of {self.name} was in use before this one")
        return now.earlier[0]

    def roll_back(self) -> Pointer:
        """Return to the version in use before. Raises ``ModelNotFound`` if there was none."""
        number = self.previous()
        now = self.latest()
        assert now is not None
        return self._point(Pointer(version=number, earlier=now.earlier[1:]))

    def fetch(self, number: int, out: Path) -> Version:
        """Download a version to the folder ``out``, whole or not at all, and check every file.

        Raises ``InvalidRequest`` if ``out`` exists, ``ModelRejected`` for a file that is missing or was changed.
        """
        described = self.version(number)
        if out.exists():
            raise InvalidRequest(f"out: {out} already exists")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            staging = Path(scratch) / "version"
            for name, expected in described.files.items():
                path = staging / name
                if not path.resolve().is_relative_to(staging.resolve()):
                    raise ModelRejected(f"{name} points outside the version's folder")
                path.parent.mkdir(parents=True, exist_ok=True)
                self._download(number, name, expected, path)
            staging.rename(out)
        return described

    def prune(self, keep: int) -> list[int]:
        """Delete all but the newest ``keep`` versions, and uploads abandoned for a day; return the deleted versions.

        The version in use and the one before it are always kept.
        """
        if keep < 1:
            raise InvalidRequest("keep: must be at least 1")
        complete = sorted(self._numbers(_DESCRIPTION))
        now = self.latest()
        kept = {*complete[-keep:], *([now.version, *now.earlier[:1]] if now else [])}
        gone = [number for number in complete if number not in kept]
        for number in (*gone, *self._abandoned(complete)):
            self._delete(number)
        return gone

    def _reserve(self) -> int:
        """Reserve a number that no other caller gets, on this machine or another."""
        number = max(self._numbers(_RESERVATION), default=0) + 1
        while not self._store.create(self.prefix(number) + _RESERVATION, b""):
            number += 1
        return number

    def _numbers(self, file: str) -> Iterator[int]:
        pattern = re.compile(rf"models/{re.escape(self.name)}/(\d+)/{re.escape(file)}")
        for info in self._store.list(f"models/{self.name}/"):
            if found := pattern.fullmatch(info.key):
                yield int(found[1])

    def _abandoned(self, complete: list[int]) -> list[int]:
        before = (datetime.datetime.now(datetime.UTC) - _ABANDONED_AFTER).timestamp()
        reserved = {info.key: info.modified for info in self._store.list(f"models/{self.name}/")}
        return [
            number
            for number in self._numbers(_RESERVATION)
            if number not in complete and reserved[self.prefix(number) + _RESERVATION] < before
        ]

    def _delete(self, number: int) -> None:
        # The description first: half a version must not look whole. The reservation last: a number is never reused
        # while any of its objects remain.
        ends = (_DESCRIPTION, _RESERVATION)
        keys = [info.key for info in self._store.list(self.prefix(number))]
        middle = [key for key in keys if key.removeprefix(self.prefix(number)) not in ends]
        for key in (self.prefix(number) + _DESCRIPTION, *middle, self.prefix(number) + _RESERVATION):
            self._store.delete(key)

    def _point(self, pointer: Pointer) -> Pointer:
        self._store.put(f"models/{self.name}/{_POINTER}", pointer.model_dump_json().encode(), _JSON)
        return pointer

    def _check(self, version: int, name: str, expected: StoredFile) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            self._download(version, name, expected, Path(scratch) / "file")

    def _download(self, version: int, name: str, expected: StoredFile, path: Path) -> None:
        try:
            self._store.download(self.prefix(version) + name, path)
        except ObjectNotFound:
            raise ModelRejected(f"version {version} of {self.name} lacks {name}") from None
        except OSError as error:
            raise StoreUnavailable(f"{name} could not be written here: {error.strerror}") from error
        if sha256(path) != expected.sha256:
            raise ModelRejected(f"{name} of version {version} of {self.name} was changed in the store")


def files_under(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Map ``prefix`` and name to every file of a folder, for ``Registry.publish``; hidden files are skipped."""
    found = ((path.relative_to(folder), path) for path in folder.rglob("*") if path.is_file())
    return {
        f"{prefix}{name.as_posix()}": path
        for name, path in found
        if not any(part.startswith(".") for part in name.parts)
    }
