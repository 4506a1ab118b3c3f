"""The image store on a real S3 server: multipart, signed URLs, wrong secrets, outages amid writes."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from aquatint_backends.aquatint_runtime import source

from aquatint.contract.errors import HubUnavailable, ImageNotFound, InvalidConfiguration, StoreUnavailable
from aquatint.images import ImageStore, StoreOptions, open_image_store
from aquatint.settings import StorageSettings
from aquatint.storage import FileObjects, ObjectNotFound
from aquatint.storage.s3 import S3Objects
from tests.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed, seaweed

pytestmark = pytest.mark.e2e

BUCKET = "pictures"
KEY = b"k" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed")) as running:
        running.client().create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def objects(server: Seaweed, request: pytest.FixtureRequest) -> S3Objects:
    return S3Objects(BUCKET, request.node.name, server.endpoint_url, tries=2)


@pytest.fixture
def store(objects: S3Objects, tmp_path: Path) -> ImageStore:
    return ImageStore(objects, KEY, "http://host:1", local=FileObjects(tmp_path), options=StoreOptions(ttl_s=100.0))


def test_objects(objects: S3Objects) -> None:
    objects.check()
    for size in (0, 10, 20 << 20):
        data = os.urandom(size)
        objects.put("a/b", data, "image/png")
        assert objects.get("a/b") == data
    assert [(info.key, info.size) for info in objects.list("a/")] == [("a/b", 20 << 20)]
    assert list(objects.list("b/")) == []
    assert abs(next(objects.list("a/")).modified - time.time()) < 600
    objects.delete("a/b")
    objects.delete("a/b")
    with pytest.raises(ObjectNotFound):
        objects.get("a/b")


async def test_the_life_of_an_image(store: ImageStore, objects: S3Objects) -> None:
    image = await store.put(b"picture", "png", parameters={"prompt": "a fox"}, seed=1, owner="me")
    assert not image.local
    assert (await store.get(image.id))[1] == b"picture"
    assert (await store.page("me")).images == [image]
    await store.sweep()
    assert len(list(objects.list(""))) == 2
    await store.delete(image.id, "me")
    assert list(objects.list("")) == []
    with pytest.raises(ImageNotFound):
        await store.get(image.id)


async def test_expired_images_are_swept(objects: S3Objects) -> None:
    now = time.time()
    store = ImageStore(objects, KEY, "http://host:1", options=StoreOptions(ttl_s=100.0), now=lambda: now)
    await store.put(b"picture", "png", parameters={}, seed=1, owner="me")
    now += 200
    assert await ImageStore(objects, KEY, "http://host:1", now=lambda: now).sweep() == 1
    assert list(objects.list("")) == []


async def test_signed_urls(objects: S3Objects) -> None:
    store = ImageStore(objects, KEY, "http://host:1", options=StoreOptions(ttl_s=100.0, presigned=True))
    image = await store.put(b"picture", "png", parameters={}, seed=1, owner="me")
    url = store.url(image)
    answer = httpx.get(url)
    assert (answer.content, answer.headers["content-type"]) == (b"picture", "image/png")
    assert httpx.get(url.replace("X-Amz-Signature=", "X-Amz-Signature=0")).status_code == 403
    assert httpx.get(url.partition("?")[0]).status_code == 403
    short = objects.presign(image.key, 1)
    assert short is not None
    await asyncio.sleep(2.1)
    assert httpx.get(short).status_code == 403


async def test_wrong_secret(server: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    settings = StorageSettings(path=tmp_path, bucket=BUCKET, endpoint_url=server.endpoint_url)
    store = open_image_store(settings, "http://host:1")
    with pytest.raises(StoreUnavailable, match="refused: SignatureDoesNotMatch") as caught:
        await store.check()
    assert "wrong" not in str(caught.value)
    image = await store.put(b"picture", "png", parameters={}, seed=1, owner="me")
    assert image.local
    assert (await store.get(image.id))[1] == b"picture"


async def test_missing_bucket(server: Seaweed) -> None:
    with pytest.raises(StoreUnavailable, match="refused"):
        S3Objects("nowhere", "", server.endpoint_url).check()


async def test_an_outage_amid_writes_loses_nothing(server: Seaweed, store: ImageStore) -> None:
    """Images are put without pause while the server is killed and restarted; every one can be fetched."""
    kept: dict[str, bytes] = {}
    stop = threading.Event()

    async def write(index: int) -> None:
        count = 0
        while not stop.is_set():
            data = f"{index}-{count}".encode() * 1000
            kept[(await store.put(data, "png", parameters={}, seed=1, owner="me")).id] = data
            count += 1

    async def disturb() -> None:
        await asyncio.sleep(0.5)
        with server.outage():
            await asyncio.sleep(1.0)
            assert (await store.put(b"amid", "png", parameters={}, seed=1, owner="me")).local
        await asyncio.sleep(0.5)
        stop.set()

    await asyncio.gather(*(write(index) for index in range(4)), disturb())
    for image_id, data in kept.items():
        assert (await store.get(image_id))[1] == data
    await store.sweep()
    page = await store.page("me", limit=100_000)
    assert {image.id for image in page.images} >= kept.keys()
    assert not any(image.local for image in page.images)


def test_the_runtime_fetches_models_from_s3(
    server: Seaweed, mini_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``MODEL_ID=s3://…`` by KServe's own storage library; a missing model gets a plain error message."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
    files = {path.relative_to(mini_checkpoint): path for path in mini_checkpoint.rglob("*") if path.is_file()}
    for name, path in files.items():
        server.client().upload_file(str(path), BUCKET, f"models/mini/{name}")
    fetched = Path(source.resolve(f"s3://{BUCKET}/models/mini"))
    try:
        for name, path in files.items():
            assert (fetched / name).read_bytes() == path.read_bytes()
    finally:
        shutil.rmtree(fetched)
    with pytest.raises(HubUnavailable, match="the model cannot be downloaded"):
        source.resolve(f"s3://{BUCKET}/models/nothing")


@pytest.mark.parametrize(
    ("model_id", "expected"), [("hf://org/name", "org/name"), ("org/name", "org/name"), ("/tmp", "/tmp")]
)
def test_other_sources(model_id: str, expected: str) -> None:
    assert source.resolve(model_id) == expected


def test_a_missing_folder_is_told() -> None:
    with pytest.raises(InvalidConfiguration, match="no such folder"):
        source.resolve("/mnt/models-not-there")
