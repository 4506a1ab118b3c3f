"""The image store that the settings describe."""

from __future__ import annotations

import contextlib
import secrets
import uuid
from functools import partial

from aquatint.errors import StoreUnavailable
from aquatint.settings import StorageSettings
from aquatint.storage.images import ImageStore
from aquatint.storage.objects import FileObjects

_ID_KEY_FILE = ".id-key"


def open_image_store(settings: StorageSettings, public_url: str) -> ImageStore:
    """Pictures in S3 when a bucket is set, with the local folder to fall back on; else in the local folder.

    Raises ``StoreUnavailable`` when the local folder cannot be used or boto3 is missing.
    """
    local = FileObjects(settings.path)
    open_store = partial(
        ImageStore,
        id_key=_id_key(settings),
        public_url=public_url,
        ttl_s=settings.ttl_s or None,
        quota_bytes=settings.quota_bytes or None,
        presigned=settings.presigned,
    )
    if settings.bucket is None:
        return open_store(local)
    try:
        from aquatint.storage.s3 import S3Objects  # noqa: PLC0415 - boto3 is only needed with a bucket
    except ImportError as error:
        raise StoreUnavailable("a bucket is set but boto3 is missing: pip install 'aquatint[mcp]'") from error
    objects = S3Objects(settings.bucket, settings.prefix, settings.endpoint_url)
    return open_store(objects, local=local)


def _id_key(settings: StorageSettings) -> bytes:
    """The secret behind image ids: set, or made once and kept beside the pictures, readable by its owner alone."""
    if settings.id_key is not None:
        return settings.id_key.get_secret_value().encode()
    file = settings.path / _ID_KEY_FILE
    fresh = settings.path / f"{_ID_KEY_FILE}.{uuid.uuid4().hex}"
    try:
        settings.path.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            fresh.touch(mode=0o600)
            fresh.write_bytes(secrets.token_bytes(32))
            # A link, unlike a rename, fails if another process was first.
            with contextlib.suppress(FileExistsError):
                file.hardlink_to(fresh)
            fresh.unlink()
        return file.read_bytes()
    except OSError as error:
        raise StoreUnavailable(f"the image folder cannot be used: {error.strerror}") from error
