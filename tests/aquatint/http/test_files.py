"""Stored images over HTTP."""

from __future__ import annotations

import httpx
import pytest

from aquatint.images import ImageStore, StoredImage
from tests.aquatint.http.conftest import bearer

DATA = bytes(range(100))


@pytest.fixture
async def image(store: ImageStore) -> StoredImage:
    return await store.put(DATA, "png", parameters={"prompt": "a fox"}, seed=1, owner="alice")


async def test_fetch(http: httpx.AsyncClient, image: StoredImage) -> None:
    answer = await http.get(f"/images/{image.id}")
    assert (answer.content, answer.headers["content-type"]) == (DATA, "image/png")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in answer.headers["cache-control"]
    again = await http.get(f"/images/{image.id}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await http.head(f"/images/{image.id}")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "100")


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=0-9", 206, DATA[:10]),
        ("bytes=90-", 206, DATA[90:]),
        ("bytes=-5", 206, DATA[-5:]),
        ("bytes=50-1000", 206, DATA[50:]),
        ("bytes=100-", 416, b""),
        ("bytes=9-3", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=0-1,5-6", 200, DATA),
        ("lines=1-2", 200, DATA),
        ("bytes=-", 200, DATA),
    ],
)
async def test_ranges(http: httpx.AsyncClient, image: StoredImage, header: str, status: int, expected: bytes) -> None:
    answer = await http.get(f"/images/{image.id}", headers={"Range": header})
    assert (answer.status_code, answer.content) == (status, expected)


async def test_a_range_of_an_older_image_gets_the_whole(http: httpx.AsyncClient, image: StoredImage) -> None:
    headers = {"Range": "bytes=0-9", "If-Range": '"another"'}
    assert (await http.get(f"/images/{image.id}", headers=headers)).content == DATA


@pytest.mark.parametrize(
    "path", ["..%2f..%2fetc%2fpasswd", "%2e%2e/x", "0" * 40, "x" * 5000, ".id-key", "..%00", "%F0%9F%A6%8A"]
)
async def test_strange_paths_are_not_found(http: httpx.AsyncClient, image: StoredImage, path: str) -> None:
    assert (await http.get(f"/images/{path}")).status_code == 404


@pytest.mark.parametrize("protected", [True])
async def test_who_lists_and_deletes(http: httpx.AsyncClient, image: StoredImage, protected: bool) -> None:
    async def listed(name: str) -> list[str]:
        answer = await http.get("/images", headers=bearer(name))
        assert answer.headers["cache-control"] == "no-store"
        return [entry["id"] for entry in answer.json()["images"]]

    assert await listed("alice") == await listed("admin") == [image.id]
    assert await listed("bob") == []
    # Whoever was given the id may look.
    assert (await http.get(f"/images/{image.id}")).status_code == 200
    assert (await http.delete(f"/images/{image.id}", headers=bearer("bob"))).status_code == 404
    assert (await http.delete(f"/images/{image.id}", headers=bearer("alice"))).status_code == 204
    assert (await http.get(f"/images/{image.id}")).status_code == 404


async def test_bad_listing_parameters(http: httpx.AsyncClient) -> None:
    for query in ("limit=0", "limit=x", "limit=999"):
        answer = await http.get(f"/images?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequest")
