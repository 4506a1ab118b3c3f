"""Stored pictures over HTTP: fetch by id, list and delete one's own."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from aquatint.http.auth import Caller, CallerOf
from aquatint.images import ImageStore, StoredImage

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_LONGEST_CACHE_S = 365 * 24 * 3600


def describe(store: ImageStore, image: StoredImage) -> dict[str, Any]:
    """What a caller is told of a stored picture."""
    return {
        "id": image.id,
        "url": store.url(image),
        "format": image.format,
        "size": image.size,
        "seed": image.seed,
        "parameters": image.parameters,
        "created_at": image.created_at,
        "expires_at": image.expires_at,
        "stored": "local" if image.local else "store",
    }


def image_files(store: ImageStore, caller: CallerOf) -> APIRouter:
    """``GET /images/{id}`` for whoever knows the id; ``GET /images`` and ``DELETE /images/{id}`` for the authorized."""
    router = APIRouter(tags=["images"])

    @router.api_route("/images/{image_id}", methods=["GET", "HEAD"])
    async def fetch(image_id: str, request: Request) -> Response:
        """The picture: whole, a range of it, or 304 if the caller has it."""
        image, data = await store.get(image_id)
        headers = _headers(image)
        if request.headers.get("if-none-match") in (headers["ETag"], "*"):
            return Response(status_code=304, headers=headers)
        wanted = request.headers.get("range")
        if wanted is None or request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
            return Response(data, media_type=image.media_type, headers=headers)
        return _partial(image, data, wanted, headers)

    @router.get("/images")
    async def listing(
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: str | None = None,
        query: str = "",
        who: Caller = Depends(caller),
    ) -> JSONResponse:
        """The caller's pictures, newest first; ``query`` are words of the prompt."""
        page = await store.page(who.sees, limit=limit, cursor=cursor, query=query)
        body = {"images": [describe(store, image) for image in page.images], "next_cursor": page.next_cursor}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    @router.delete("/images/{image_id}", status_code=204)
    async def delete(image_id: str, who: Caller = Depends(caller)) -> None:
        """Remove one of the caller's pictures."""
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
        # Chat pages on other ports show these pictures; whoever has the id may see it.
        "Cross-Origin-Resource-Policy": "cross-origin",
    }


def _partial(image: StoredImage, data: bytes, wanted: str, headers: dict[str, str]) -> Response:
    """One byte range (RFC 9110, section 14); any other form of the header is answered with the whole."""
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
