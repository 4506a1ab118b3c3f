"""Open object stores by their address."""

from __future__ import annotations

from pathlib import Path

from aquatint.contract.errors import InvalidRequest, StoreUnavailable
from aquatint.settings import StorageSettings, read_settings
from aquatint.storage.objects import FileObjects, ObjectStore


def open_objects(address: str) -> ObjectStore:
    """Open the store of ``s3://bucket/prefix``, or of a folder such as a mounted volume.

    The endpoint and the credentials of S3 come from AWS's own variables. Raises ``InvalidRequest`` for an address that
    names no bucket, ``StoreUnavailable`` when boto3 is missing.
    """
    if not address.startswith("s3://"):
        return FileObjects(Path(address))
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise InvalidRequest(f"store: {address!r} names no bucket")
    return open_s3(bucket, prefix, read_settings(StorageSettings).endpoint_url)


def open_s3(bucket: str, prefix: str, endpoint_url: str | None) -> ObjectStore:
    """Open a bucket. Raises ``StoreUnavailable`` when boto3 is missing."""
    try:
        from aquatint.storage.s3 import S3Objects  # noqa: PLC0415 - boto3 is only needed with a bucket
    except ImportError as error:
        raise StoreUnavailable("a bucket is set but boto3 is missing: pip install 'aquatint[mcp]'") from error
    return S3Objects(bucket, prefix, endpoint_url)
