"""Versions of models: whole or not at all, never overwritten, checked when fetched."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aquatint.contract.errors import InvalidRequest, ModelNotFound, ModelRejected, StoreUnavailable
from aquatint.registry import Registry, files_under
from aquatint.storage import FileObjects


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def registry(root: Path) -> Registry:
    return Registry(FileObjects(root), "mini")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "transformer").mkdir(parents=True)
    (made / "transformer" / "weights.bin").write_bytes(os.urandom(1000))
    (made / "model_index.json").write_text("{}")
    (made / ".cache").mkdir()
    (made / ".cache" / "x").write_text("hidden")
    return made


def test_publish_and_fetch(registry: Registry, folder: Path, tmp_path: Path) -> None:
    version = registry.publish(files_under(folder), {"token": "rhdog"})
    assert version.version == 1
    assert set(version.files) == {"transformer/weights.bin", "model_index.json"}
    assert registry.versions() == [version]
    registry.fetch(1, tmp_path / "out")
    assert (tmp_path / "out" / "transformer" / "weights.bin").read_bytes() == (
        folder / "transformer" / "weights.bin"
    ).read_bytes()
    with pytest.raises(InvalidRequest, match="already exists"):
        registry.fetch(1, tmp_path / "out")
    with pytest.raises(ModelNotFound, match="version 2"):
        registry.fetch(2, tmp_path / "other")


def test_names_and_empty_folders_are_refused(registry: Registry, root: Path) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        Registry(FileObjects(root), "../x")
    with pytest.raises(InvalidRequest, match="nothing to publish"):
        registry.publish({}, {})


def test_versions_are_never_overwritten(root: Path, folder: Path) -> None:
    """Publishers that race get numbers of their own."""

    def publish(_: int) -> int:
        return Registry(FileObjects(root), "mini").publish(files_under(folder), {}).version

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(publish, range(16)))
    assert sorted(numbers) == list(range(1, 17))


class Dying(FileObjects):
    """Loses the connection after a number of writes."""

    def __init__(self, root: Path, writes: int) -> None:
        super().__init__(root)
        self.remaining = writes

    def _count(self) -> None:
        if self.remaining == 0:
            raise StoreUnavailable("gone")
        self.remaining -= 1

    def put(self, key: str, data: bytes, content_type: str) -> None:
        self._count()
        super().put(key, data, content_type)

    def upload(self, key: str, path: Path) -> None:
        self._count()
        super().upload(key, path)

    def create(self, key: str, data: bytes) -> bool:
        self._count()
        return super().create(key, data)


@pytest.mark.parametrize("writes", range(4))
def test_an_interrupted_upload_leaves_nothing_visible(root: Path, folder: Path, writes: int) -> None:
    with pytest.raises(StoreUnavailable):
        Registry(Dying(root, writes), "mini").publish(files_under(folder), {})
    registry = Registry(FileObjects(root), "mini")
    assert registry.versions() == []
    again = registry.publish(files_under(folder), {}).version
    assert [each.version for each in registry.versions()] == [again]


def test_what_was_changed_in_the_store_is_refused(registry: Registry, root: Path, folder: Path, tmp_path: Path) -> None:
    registry.publish(files_under(folder), {})
    stored = root / "models" / "mini" / "1"
    (stored / "transformer" / "weights.bin").write_bytes(b"other")
    with pytest.raises(ModelRejected, match="was changed"):
        registry.fetch(1, tmp_path / "out")
    (stored / "transformer" / "weights.bin").unlink()
    with pytest.raises(ModelRejected, match="lacks"):
        registry.fetch(1, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (stored / "version.json").write_text("{")
    with pytest.raises(ModelRejected, match="damaged"):
        registry.versions()


def test_a_store_that_garbles_is_found_before_the_version_appears(root: Path, folder: Path) -> None:
    class Garbling(FileObjects):
        def upload(self, key: str, path: Path) -> None:
            self.put(key, path.read_bytes() + b"!", "")

    registry = Registry(Garbling(root), "mini")
    with pytest.raises(ModelRejected, match="was changed"):
        registry.publish(files_under(folder), {})
    assert registry.versions() == []


def test_names_that_point_out_of_the_version(registry: Registry, root: Path, folder: Path, tmp_path: Path) -> None:
    registry.publish(files_under(folder), {})
    description = root / "models" / "mini" / "1" / "version.json"
    description.write_text(description.read_text().replace("model_index.json", "../../escaped"))
    with pytest.raises(ModelRejected, match="points out"):
        registry.fetch(1, tmp_path / "out")


def test_promote_and_roll_back(registry: Registry, folder: Path) -> None:
    assert registry.latest() is None
    with pytest.raises(ModelNotFound):
        registry.roll_back()
    for _ in range(3):
        registry.publish(files_under(folder), {})
    for number in (1, 3, 2):
        registry.promote(number)
    assert registry.previous() == 3
    assert registry.roll_back().version == 3
    assert registry.roll_back().version == 1
    with pytest.raises(ModelNotFound, match="before this one"):
        registry.roll_back()
    with pytest.raises(ModelNotFound):
        registry.promote(9)
    latest = registry.latest()
    assert latest is not None
    assert latest.version == 1


def test_prune_keeps_what_is_in_use(registry: Registry, root: Path, folder: Path) -> None:
    for _ in range(6):
        registry.publish(files_under(folder), {})
    registry.promote(1)
    registry.promote(2)
    abandoned = root / "models" / "mini" / "90"
    abandoned.mkdir()
    (abandoned / "reserved").touch()
    (abandoned / "half").touch()
    day_before = time.time() - 2 * 24 * 3600
    os.utime(abandoned / "reserved", (day_before, day_before))
    assert registry.prune(2) == [3, 4]
    assert [each.version for each in registry.versions()] == [1, 2, 5, 6]
    assert not (abandoned / "half").exists()
    # The number of a deleted version is not reused while a higher one exists.
    assert registry.publish(files_under(folder), {}).version == 7
