"""The image store over folders: ids, expiry, quotas, listing, outages, crashes."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aquatint.contract.errors import ImageNotFound, StoreUnavailable
from aquatint.contract.request import GenerationRequest
from aquatint.images import ImageStore, StoredImage, StoreOptions, open_image_store
from aquatint.settings import StorageSettings
from aquatint.storage import FileObjects, ObjectNotFound
from aquatint.testing import fake_client

KEY = b"k" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class BrokenObjects(FileObjects):
    """Refuses while ``broken``."""

    broken = False

    def put(self, key: str, data: bytes, content_type: str) -> None:
        if self.broken:
            raise StoreUnavailable("the object store cannot be reached: EndpointConnectionError")
        super().put(key, data, content_type)


def open_store(root: Path, now: Callable[[], float] = time.time, **options: Any) -> ImageStore:
    return ImageStore(FileObjects(root), KEY, "http://host:1", options=StoreOptions(**options), now=now)


async def put(store: ImageStore, data: bytes = b"picture", *, owner: str = "me", prompt: str = "a fox") -> StoredImage:
    return await store.put(data, "png", parameters={"prompt": prompt}, seed=7, owner=owner)


async def test_put_and_get(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    image = await put(store)
    assert await store.get(image.id) == (image, b"picture")
    assert store.url(image) == f"http://host:1/images/{image.id}"
    assert (await put(store)).id == image.id
    assert (await put(store, b"other")).id != image.id


async def test_ids_depend_on_the_secret(tmp_path: Path) -> None:
    image = await put(open_store(tmp_path))
    other = await put(ImageStore(FileObjects(tmp_path), b"another" * 8, "http://host:1"))
    assert image.id != other.id


@pytest.mark.parametrize("image_id", ["", "..", "../x", "a" * 39, "A" * 40, "0" * 40 + "/..", "0" * 40 + ".json"])
async def test_wrong_ids_are_not_found(tmp_path: Path, image_id: str) -> None:
    store = open_store(tmp_path)
    for call in (store.get(image_id), store.delete(image_id, None)):
        with pytest.raises(ImageNotFound):
            await call


@pytest.mark.parametrize("key", ["../up", "/etc/passwd", "a/../../b", ".hidden", "a//b", "a/.partial/x", ""])
def test_keys_stay_inside_the_folder(tmp_path: Path, key: str) -> None:
    objects = FileObjects(tmp_path / "in")
    with pytest.raises(ObjectNotFound):
        objects.get(key)
    with pytest.raises(ObjectNotFound):
        objects.put(key, b"x", "text/plain")
    assert list(tmp_path.rglob("*")) == []


async def test_expiry_survives_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    image = await put(open_store(tmp_path, ttl_s=100.0, now=clock))
    clock.now += 99
    restarted = open_store(tmp_path, ttl_s=5.0, now=clock)
    assert await restarted.sweep() == 0
    assert (await restarted.get(image.id))[1] == b"picture"
    clock.now += 1
    with pytest.raises(ImageNotFound):
        await restarted.get(image.id)
    assert (await restarted.page(None)).images == []
    assert await restarted.sweep() == 1
    assert list((tmp_path / "images").iterdir()) == []


async def test_putting_again_renews_even_for_another_replica(tmp_path: Path) -> None:
    clock = Clock()
    one, two = (open_store(tmp_path, ttl_s=100.0, now=clock) for _ in range(2))
    image = await put(one)
    assert len((await two.page(None)).images) == 1
    clock.now += 60
    await put(one)
    clock.now += 60
    assert await two.sweep() == 0
    assert (await two.get(image.id))[1] == b"picture"


async def test_a_sweep_leaves_what_is_not_ours(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(tmp_path, ttl_s=1.0, now=clock)
    await put(store)
    folder = tmp_path / "images"
    strangers = {
        "holiday.png": b"mine",
        f"{'a' * 40}.png": b"has the form of an id but not its hash",
        f"{'b' * 40}.json": b"not metadata of ours",
        f"{'c' * 40}.json": json.dumps({"id": "c" * 40, "expires_at": 0}).encode(),
    }
    for name, data in strangers.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (0, 0))
    clock.now += 10_000
    await store.sweep()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == strangers


async def test_orphans_of_ours_are_removed_when_old(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    image = await put(store)
    (tmp_path / image.metadata_key).unlink()
    assert await store.sweep() == 0
    os.utime(tmp_path / image.key, (0, 0))
    assert await store.sweep() == 1
    assert not (tmp_path / image.key).exists()


async def test_listing(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(tmp_path, now=clock)
    for index in range(5):
        clock.now += 1
        await put(store, bytes([index]), owner="me" if index % 2 else "you", prompt=f"a red fox {index}")
    everything = await store.page(None, limit=10)
    assert [image.parameters["prompt"][-1] for image in everything.images] == ["4", "3", "2", "1", "0"]
    first = await store.page(None, limit=2)
    second = await store.page(None, limit=2, cursor=first.next_cursor)
    third = await store.page(None, limit=2, cursor=second.next_cursor)
    assert first.images + second.images + third.images == everything.images
    assert third.next_cursor is None
    assert len((await store.page("me")).images) == 2
    assert len((await store.page(None, query="FOX 3")).images) == 1


async def test_only_owners_and_admins_delete(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    image = await put(store, owner="me")
    with pytest.raises(ImageNotFound):
        await store.delete(image.id, "you")
    await store.delete(image.id, "me")
    with pytest.raises(ImageNotFound):
        await store.get(image.id)
    await store.delete((await put(store)).id, None)


async def test_quota_drops_the_owners_oldest(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(tmp_path, quota_bytes=25, now=clock)
    theirs = await put(store, b"y" * 20, owner="you")
    mine = []
    for index in range(4):
        clock.now += 1
        mine.append(await put(store, bytes([index]) * 10))
    assert [image.id for image in (await store.page("me")).images] == [mine[3].id, mine[2].id]
    assert (await store.get(theirs.id))[1] == b"y" * 20


async def test_an_outage_loses_no_image(tmp_path: Path) -> None:
    objects = BrokenObjects(tmp_path / "s3")
    store = ImageStore(objects, KEY, "http://host:1", local=FileObjects(tmp_path / "local"))
    objects.broken = True
    image = await put(store)
    assert image.local
    assert (await store.get(image.id))[1] == b"picture"
    assert [found.local for found in (await store.page("me")).images] == [True]
    with pytest.raises(StoreUnavailable):
        await store.check()
    with pytest.raises(StoreUnavailable):
        await store.sweep()
    assert (await store.get(image.id))[1] == b"picture"
    objects.broken = False
    await store.sweep()
    moved, data = await store.get(image.id)
    assert (moved.local, data) == (False, b"picture")
    assert list((tmp_path / "local" / "images").iterdir()) == []


async def test_without_a_local_folder_an_outage_is_an_error(tmp_path: Path) -> None:
    objects = BrokenObjects(tmp_path)
    objects.broken = True
    with pytest.raises(StoreUnavailable):
        await put(ImageStore(objects, KEY, "http://host:1"))


async def test_many_at_once(tmp_path: Path) -> None:
    store = open_store(tmp_path, quota_bytes=100_000)
    images = await asyncio.gather(*(put(store, bytes([index]) * 100) for index in range(40)))
    assert len({image.id for image in images}) == 40
    assert len((await store.page(None, limit=200)).images) == 40


def test_the_id_key_is_made_once_and_private(tmp_path: Path) -> None:
    settings = StorageSettings(path=tmp_path)
    for _ in range(2):
        open_image_store(settings, "http://host:1")
    (key,) = tmp_path.glob(".id-key*")
    assert key.stat().st_mode & 0o777 == 0o600
    # 32 random bytes as base64 text.
    assert len(key.read_bytes()) == 43


def _die_at(root: Path, data: bytes, fatal_call: int, delete: bool) -> None:
    """Put (and delete) an image in a process that is killed just before its ``fatal_call``-th file operation."""
    calls = 0

    def counting(original: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return counted

    for name in ("fsync", "replace", "unlink", "mkdir"):
        setattr(os, name, counting(getattr(os, name)))

    async def work() -> None:
        store = open_store(root)
        image = await put(store, data)
        if delete:
            await store.delete(image.id, None)

    asyncio.run(work())


@pytest.mark.parametrize("delete", [False, True], ids=["put", "put and delete"])
async def test_killed_between_any_two_writes(tmp_path: Path, delete: bool) -> None:
    """After each kill a fresh store serves the whole image or none, and can store it again."""
    data = os.urandom(200_000)
    context = multiprocessing.get_context("spawn")
    killed = 0
    for fatal_call in range(1, 40):
        root = tmp_path / str(fatal_call)
        child = context.Process(target=_die_at, args=(root, data, fatal_call, delete))
        child.start()
        child.join()
        store = open_store(root)
        for image in (await store.page(None)).images:
            assert (await store.get(image.id))[1] == data
        again = await put(store, data)
        assert (await store.get(again.id))[1] == data
        if child.exitcode == 0:
            break
        killed += 1
    assert child.exitcode == 0
    assert killed >= (8 if delete else 6)


async def test_images_of_the_fake_can_be_stored(tmp_path: Path) -> None:
    with fake_client() as client:
        generation = client.generate(GenerationRequest(prompt="a fox", seed=1))
    store = open_store(tmp_path)
    stored = await store.put(
        generation.images[0].png, "png", parameters=generation.parameters.model_dump(), seed=1, owner="me"
    )
    assert (await store.get(stored.id))[1] == generation.images[0].png
