"""Store finished images: put, get, list, delete, expire.

An image is two objects, ``images/<id>.<format>`` and ``images/<id>.json``. The JSON is written last and deleted first:
an image exists only if it has one, so a crash between any two writes leaves nothing half done. The id is an HMAC of the
bytes, equal for equal images and unguessable, and proves in a clean-up that the object is ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from aquatint.contract.errors import ImageNotFound, StoreUnavailable
from aquatint.storage.objects import ObjectInfo, ObjectNotFound, ObjectStore

_log = logging.getLogger("aquatint.storage")

_PREFIX = "images/"
_ID = re.compile(r"[0-9a-f]{40}")
_OBJECT = re.compile(rf"{_PREFIX}({_ID.pattern})\.(png|jpeg|webp|json)")
# An image whose metadata did not follow within this time is debris of a crash.
_ORPHAN_AFTER_S = 3600.0
_MADE_BY = "aquatint"
_LONGEST_PRESIGN_S = 7 * 24 * 3600


class StoredImage(BaseModel):
    """The metadata beside an image. Times are seconds since the epoch; ``local`` means not yet in the object store."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    made_by: str = _MADE_BY
    id: str
    format: str
    size: int
    sha256: str
    seed: int
    parameters: dict[str, Any]
    owner: str
    created_at: float
    expires_at: float | None = None
    local: bool = False

    @property
    def media_type(self) -> str:
        """The MIME type."""
        return f"image/{self.format}"

    @property
    def key(self) -> str:
        """The key of the image's bytes."""
        return f"{_PREFIX}{self.id}.{self.format}"

    @property
    def metadata_key(self) -> str:
        """The key of this description."""
        return f"{_PREFIX}{self.id}.json"


class ImagePage(BaseModel):
    """Part of a listing, newest first. ``next_cursor`` continues it."""

    images: list[StoredImage]
    next_cursor: str | None = None


class _Shelf:
    """The images of one object store, and an index of their metadata. Blocking calls."""

    def __init__(self, objects: ObjectStore, id_key: bytes, *, local: bool) -> None:
        self.objects = objects
        self._id_key = id_key
        self._local = local
        self._index: dict[str, StoredImage] = {}

    def put(self, image: StoredImage, data: bytes) -> StoredImage:
        image = image.model_copy(update={"local": self._local})
        self.objects.put(image.key, data, image.media_type)
        self.objects.put(image.metadata_key, image.model_dump_json().encode(), "application/json")
        self._index[image.id] = image
        return image

    def describe(self, image_id: str) -> StoredImage:
        try:
            image = StoredImage.model_validate_json(self.objects.get(f"{_PREFIX}{image_id}.json"))
        except (ObjectNotFound, ValidationError):
            self._index.pop(image_id, None)
            raise ImageNotFound("no image of that id") from None
        self._index[image_id] = image
        return image

    def get(self, image_id: str) -> tuple[StoredImage, bytes]:
        image = self.describe(image_id)
        try:
            return image, self.objects.get(image.key)
        except ObjectNotFound:
            raise ImageNotFound("no image of that id") from None

    def delete(self, image: StoredImage) -> None:
        self.objects.delete(image.metadata_key)
        self.objects.delete(image.key)
        self._index.pop(image.id, None)

    def images(self) -> list[StoredImage]:
        """List all images now in the store; only metadata not seen before is read."""
        found = [match for info in self.objects.list(_PREFIX) if (match := _OBJECT.fullmatch(info.key))]
        present = {match[1] for match in found if match[2] == "json"}
        # Copies, because other threads put and delete meanwhile.
        for vanished in set(self._index) - present:
            self._index.pop(vanished, None)
        for image_id in present - set(self._index):
            try:
                self.describe(image_id)
            except ImageNotFound:
                continue
        return [image for image in list(self._index.values()) if image.made_by == _MADE_BY]

    def remove_orphans(self, now: float) -> int:
        """Delete images without metadata that are old enough and provably ours."""
        listed: list[ObjectInfo] = list(self.objects.list(_PREFIX))
        present = {info.key for info in listed}
        removed = 0
        for info in listed:
            match = _OBJECT.fullmatch(info.key)
            if match is None or match[2] == "json" or f"{_PREFIX}{match[1]}.json" in present:
                continue
            if info.modified < now - _ORPHAN_AFTER_S and self._is_ours(info.key, match[1]):
                self.objects.delete(info.key)
                removed += 1
        return removed

    def _is_ours(self, key: str, image_id: str) -> bool:
        try:
            return hmac.compare_digest(image_id_of(self._id_key, self.objects.get(key)), image_id)
        except ObjectNotFound:
            return False


def image_id_of(id_key: bytes, data: bytes) -> str:
    """Compute the id of an image: 160 bits of HMAC-SHA256 (RFC 2104) over its bytes, in hex."""
    return hmac.new(id_key, data, hashlib.sha256).hexdigest()[:40]


@dataclass(frozen=True)
class StoreOptions:
    """How long and how much to keep, and whether ``url`` gives signed URLs of the object store.

    ``ttl_s`` is the lifetime of an image; ``quota_bytes`` limits what one owner may keep, the oldest going first.
    """

    ttl_s: float | None = None
    quota_bytes: int | None = None
    presigned: bool = False


class ImageStore:
    """Keeps images in ``objects``. If that store fails they are kept in ``local``, and a later ``sweep`` moves them.

    ``public_url`` is where this server's ``/images`` is reached. All calls may be made concurrently.
    """

    def __init__(
        self,
        objects: ObjectStore,
        id_key: bytes,
        public_url: str,
        *,
        local: ObjectStore | None = None,
        options: StoreOptions | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._id_key = id_key
        self._main = _Shelf(objects, id_key, local=False)
        self._spare = _Shelf(local, id_key, local=True) if local is not None else None
        self._public_url = public_url.rstrip("/")
        self._options = options or StoreOptions()
        self._now = now

    async def put(
        self, data: bytes, image_format: str, *, parameters: dict[str, Any], seed: int, owner: str
    ) -> StoredImage:
        """Keep an image; putting the same bytes again renews its lifetime.

        Raises ``StoreUnavailable`` only when neither the store nor the local folder takes it.
        """
        now = self._now()
        image = StoredImage(
            id=image_id_of(self._id_key, data),
            format=image_format,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            seed=seed,
            parameters=parameters,
            owner=owner,
            created_at=now,
            expires_at=None if self._options.ttl_s is None else now + self._options.ttl_s,
        )
        try:
            stored = await asyncio.to_thread(self._main.put, image, data)
        except StoreUnavailable:
            if self._spare is None:
                raise
            _log.warning("the image store failed; the image is kept locally", exc_info=True)
            return await asyncio.to_thread(self._spare.put, image, data)
        if self._options.quota_bytes is not None:
            await asyncio.to_thread(self._enforce_quota, owner, self._options.quota_bytes)
        return stored

    async def get(self, image_id: str) -> tuple[StoredImage, bytes]:
        """Fetch a description and bytes. Raises ``ImageNotFound`` (also when expired) or ``StoreUnavailable``."""
        image, data = await asyncio.to_thread(self._find, _checked(image_id))
        if self._expired(image):
            raise ImageNotFound("no image of that id")
        return image, data

    async def page(
        self, owner: str | None, *, limit: int = 50, cursor: str | None = None, query: str = ""
    ) -> ImagePage:
        """List images of ``owner`` (``None``: everyone's) whose prompt has all words of ``query``, newest first."""
        images = await asyncio.to_thread(self._all)
        words = query.lower().split()
        wanted = [
            image
            for image in sorted(images, key=_newest_first)
            if (owner is None or image.owner == owner)
            and not self._expired(image)
            and all(word in str(image.parameters.get("prompt", "")).lower() for word in words)
            and (cursor is None or _position(image) > cursor)
        ]
        page = wanted[:limit]
        return ImagePage(images=page, next_cursor=_position(page[-1]) if len(wanted) > limit else None)

    async def delete(self, image_id: str, owner: str | None) -> None:
        """Remove an image of ``owner`` (``None``: anyone's). Raises ``ImageNotFound``, also if it is someone else's."""
        await asyncio.to_thread(self._delete, _checked(image_id), owner)

    async def sweep(self) -> int:
        """Remove expired images and orphans, move local images to the store; return how many were removed."""
        return await asyncio.to_thread(self._sweep)

    async def check(self) -> None:
        """Raise ``StoreUnavailable`` if images cannot be stored now."""
        await asyncio.to_thread(self._main.objects.check)

    def url(self, image: StoredImage) -> str:
        """Return where the image can be fetched: this server, or the object store itself by a signed URL."""
        if self._options.presigned and not image.local:
            remaining_s = _LONGEST_PRESIGN_S if image.expires_at is None else image.expires_at - self._now()
            url = self._main.objects.presign(image.key, int(min(max(remaining_s, 1), _LONGEST_PRESIGN_S)))
            if url is not None:
                return url
        return f"{self._public_url}/images/{image.id}"

    def _shelves(self) -> tuple[_Shelf, ...]:
        return (self._main,) if self._spare is None else (self._spare, self._main)

    def _find(self, image_id: str) -> tuple[StoredImage, bytes]:
        failure: Exception = ImageNotFound("no image of that id")
        for shelf in self._shelves():
            try:
                return shelf.get(image_id)
            except (ImageNotFound, StoreUnavailable) as error:
                failure = error
        raise failure

    def _all(self) -> list[StoredImage]:
        found: dict[str, StoredImage] = {}
        for shelf in reversed(self._shelves()):
            try:
                found.update({image.id: image for image in shelf.images()})
            except StoreUnavailable:
                if shelf is self._main and self._spare is None:
                    raise
                _log.warning("the image store cannot be listed", exc_info=True)
        return list(found.values())

    def _delete(self, image_id: str, owner: str | None) -> None:
        found = False
        for shelf in self._shelves():
            try:
                image = shelf.describe(image_id)
            except ImageNotFound:
                continue
            if owner is None or image.owner == owner:
                shelf.delete(image)
                found = True
        if not found:
            raise ImageNotFound("no image of that id")

    def _enforce_quota(self, owner: str, quota_bytes: int) -> None:
        kept = 0
        for image in sorted(self._main.images(), key=_newest_first):
            if image.owner != owner:
                continue
            kept += image.size
            if kept > quota_bytes:
                self._main.delete(image)

    def _sweep(self) -> int:
        removed = 0
        for shelf in self._shelves():
            for image in shelf.images():
                # Read again: another replica may have renewed it.
                if self._expired(image) and self._expired(fresh := shelf.describe(image.id)):
                    shelf.delete(fresh)
                    removed += 1
            removed += shelf.remove_orphans(self._now())
        if self._spare is not None:
            self._move_to_store(self._spare)
        return removed

    def _move_to_store(self, spare: _Shelf) -> None:
        for image in spare.images():
            _, data = spare.get(image.id)
            self._main.put(image, data)
            spare.delete(image)
            _log.info("image %s moved to the store", image.id)

    def _expired(self, image: StoredImage) -> bool:
        return image.expires_at is not None and image.expires_at <= self._now()


def _checked(image_id: str) -> str:
    if not _ID.fullmatch(image_id):
        raise ImageNotFound("no image of that id")
    return image_id


def _position(image: StoredImage) -> str:
    """Return a cursor that sorts like ``_newest_first``."""
    return f"{math.floor((1e11 - image.created_at) * 1000):015d}-{image.id}"


def _newest_first(image: StoredImage) -> str:
    return _position(image)
