"""Stored images over HTTP: anyone fetches by id, callers list and delete their own."""

import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, JsonValue

from aquatint.http.auth import Caller, CallerOf
from aquatint.http.errors import ERROR_RESPONSES
from aquatint.images import ImageStore, StoredImage

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_LONGEST_CACHE_S = 365 * 24 * 3600


_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FILE = {"content": {f"image/{name}": _BYTES for name in ("png", "jpeg", "webp")}}
_FETCHED: dict[int | str, dict[str, Any]] = {
    200: {**_FILE, "description": "The image"},
    206: {**_FILE, "description": "The requested range of it"},
    304: {"description": "The caller already has it"},
    416: {"description": "The range is outside the image"},
}


class ImageDescription(BaseModel):
    """A stored image. Times are seconds since the epoch; ``stored`` is ``local`` while the object store fails."""

    id: str
    url: str
    format: str
    size: int
    seed: int
    parameters: dict[str, JsonValue]
    created_at: float
    expires_at: float | None
    stored: Literal["local", "store"]


class ImageListing(BaseModel):
    """A page of stored images, newest first. ``next_cursor`` continues it."""

    images: list[ImageDescription]
    next_cursor: str | None = None


def describe(store: ImageStore, image: StoredImage) -> ImageDescription:
    """Describe a stored image to a caller."""
    return ImageDescription(
        id=image.id,
        url=store.url(image),
        format=image.format,
        size=image.size,
        seed=image.seed,
        parameters=image.parameters,
        created_at=image.created_at,
        expires_at=image.expires_at,
        stored="local" if image.local else "store",
    )


def image_files(store: ImageStore, caller: CallerOf) -> APIRouter:
    """Route ``/images`` and ``/images/{id}``: anyone who knows an id may fetch, callers list and delete their own."""
    router = APIRouter(tags=["images"], responses=ERROR_RESPONSES)
    # Annotations that name it are evaluated at once, which is why this module has no deferred ones.
    Who = Annotated[Caller, Depends(caller)]

    @router.head("/images/{image_id}", response_class=Response, responses=_FETCHED, include_in_schema=False)
    @router.get("/images/{image_id}", response_class=Response, responses=_FETCHED)
    async def fetch(image_id: str, request: Request) -> Response:
        """Return the image: whole, a range of it, or 304 if the caller has it already."""
        image, data = await store.get(image_id)
        headers = _headers(image)
        if request.headers.get("if-none-match") in (headers["ETag"], "*"):
            return Response(status_code=304, headers=headers)
        wanted = request.headers.get("range")
        if wanted is None or request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
            return Response(data, media_type=image.media_type, headers=headers)
        return _partial(image, data, wanted, headers=headers)

    @router.get("/images")
    async def listing(
        response: Response,
        who: Who,
        *,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: str | None = None,
        query: Annotated[str, Query(description="Words of the prompt.")] = "",
    ) -> ImageListing:
        """List the caller's images, newest first."""
        page = await store.page(who.sees, limit=limit, cursor=cursor, query=query)
        response.headers["Cache-Control"] = "no-store"
        return ImageListing(images=[describe(store, image) for image in page.images], next_cursor=page.next_cursor)

    @router.delete("/images/{image_id}", status_code=204)
    async def delete(image_id: str, who: Who) -> None:
        """Delete one of the caller's images."""
        await store.delete(image_id, who.sees)

    return router


def _headers(image: StoredImage) -> dict[str, str]:
    left = _LONGEST_CACHE_S if image.expires_at is None else max(int(image.expires_at - time.time()), 0)
    return {
        "ETag": f'"{image.sha256}"',
        "Cache-Control": f"private, max-age={min(left, _LONGEST_CACHE_S)}, immutable",
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": f'inline; filename="{image.id}.{image.format}"',
        # Chat pages on other ports show these images; whoever has the id may see it.
        "Cross-Origin-Resource-Policy": "cross-origin",
    }


def _partial(image: StoredImage, data: bytes, wanted: str, *, headers: dict[str, str]) -> Response:
    """Answer one byte range (RFC 9110, section 14); any other form of the header gets the whole image."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or not any(match.groups()):
        return Response(data, media_type=image.media_type, headers=headers)
    first, last = match.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start > end:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, headers, image.media_type)
