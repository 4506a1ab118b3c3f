"""Stores by address, and the image store that the settings describe."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from aquatint.errors import InvalidRequest, StoreUnavailable
from aquatint.secret_file import read_or_create
from aquatint.settings import StorageSettings, read_settings
from aquatint.storage.images import ImageStore
from aquatint.storage.objects import FileObjects, ObjectStore

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
    return open_store(_open_s3(settings.bucket, settings.prefix, settings.endpoint_url), local=local)


def open_objects(address: str) -> ObjectStore:
    """The store of ``s3://bucket/prefix``, or of a folder such as a mounted volume.

    The endpoint and the credentials of S3 come from AWS's own variables. Raises ``InvalidRequest`` for an address that
    names no bucket, ``StoreUnavailable`` when boto3 is missing.
    """
    if not address.startswith("s3://"):
        return FileObjects(Path(address))
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise InvalidRequest(f"store: {address!r} names no bucket")
    return _open_s3(bucket, prefix, read_settings(StorageSettings).endpoint_url)


def _open_s3(bucket: str, prefix: str, endpoint_url: str | None) -> ObjectStore:
    try:
        from aquatint.storage.s3 import S3Objects  # noqa: PLC0415 - boto3 is only needed with a bucket
    except ImportError as error:
        raise StoreUnavailable("a bucket is set but boto3 is missing: pip install 'aquatint[mcp]'") from error
    return S3Objects(bucket, prefix, endpoint_url)


def _id_key(settings: StorageSettings) -> bytes:
    """The secret behind image ids: set, or made once and kept beside the pictures, readable by its owner alone."""
    if settings.id_key is not None:
        return settings.id_key.get_secret_value().encode()
    try:
        return read_or_create(settings.path / _ID_KEY_FILE)
    except OSError as error:
        raise StoreUnavailable(f"the image folder cannot be used: {error.strerror}") from error
