"""Objects in an S3 bucket, by boto3. Credentials come from AWS's own variables and files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from aquatint.contract.errors import StoreUnavailable
from aquatint.storage.objects import ObjectInfo, ObjectNotFound

_NOT_FOUND = ("404", "NoSuchKey", "NotFound")
_ALREADY_THERE = ("412", "PreconditionFailed", "ConditionalRequestConflict")
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 30
_TRIES = 4
_TRANSFER = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20)


class S3Objects:
    """Objects under ``prefix`` in a bucket. Failed calls are retried with exponential back-off and jitter by botocore.

    A single PUT and a completed multipart upload are atomic in S3.
    """

    def __init__(self, bucket: str, prefix: str = "", endpoint_url: str | None = None, *, tries: int = _TRIES) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = boto3.Session().client(
            "s3",
            endpoint_url=endpoint_url,
            config=Config(
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=_READ_TIMEOUT_S,
                retries={"mode": "standard", "total_max_attempts": tries},
                signature_version="s3v4",
                s3={"addressing_style": "path"} if endpoint_url else {},
            ),
        )

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Upload in one PUT, or in parts if the object is large."""
        try:
            self._client.upload_fileobj(
                io.BytesIO(data), self._bucket, self._prefix + key, {"ContentType": content_type}, Config=_TRANSFER
            )
        # boto3's transfer manager wraps some failures in an exception of its own, which is neither of botocore's.
        except (BotoCoreError, ClientError, boto3.exceptions.Boto3Error) as error:
            raise _unavailable(error) from error

    def create(self, key: str, data: bytes) -> bool:
        """Make a conditional PUT (``If-None-Match: *``)."""
        try:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _ALREADY_THERE:
                return False
            raise _unavailable(error) from error
        except BotoCoreError as error:
            raise _unavailable(error) from error
        return True

    def upload(self, key: str, path: Path) -> None:
        """Upload, a large file in parts, with the checksums that boto3 adds."""
        try:
            self._client.upload_file(str(path), self._bucket, self._prefix + key, Config=_TRANSFER)
        except (BotoCoreError, ClientError, boto3.exceptions.Boto3Error) as error:
            raise _unavailable(error) from error

    def download(self, key: str, path: Path) -> None:
        """Download in parts, several at a time."""
        try:
            self._client.download_file(self._bucket, self._prefix + key, str(path), Config=_TRANSFER)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _NOT_FOUND:
                raise ObjectNotFound(key) from None
            raise _unavailable(error) from error
        except (BotoCoreError, boto3.exceptions.Boto3Error) as error:
            raise _unavailable(error) from error

    def get(self, key: str) -> bytes:
        """Read the whole object."""
        try:
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _NOT_FOUND:
                raise ObjectNotFound(key) from None
            raise _unavailable(error) from error
        except BotoCoreError as error:
            raise _unavailable(error) from error
        return body

    def delete(self, key: str) -> None:
        """Remove the object."""
        try:
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)
        except (BotoCoreError, ClientError) as error:
            raise _unavailable(error) from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List all objects, page by page."""
        pages = self._client.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for entry in page.get("Contents", []):
                    key = entry["Key"].removeprefix(self._prefix)
                    yield ObjectInfo(key, entry["Size"], entry["LastModified"].timestamp())
        except (BotoCoreError, ClientError) as error:
            raise _unavailable(error) from error

    def presign(self, key: str, expires_s: int) -> str | None:
        """Return a signed GET URL."""
        url: str = self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": self._prefix + key}, ExpiresIn=expires_s
        )
        return url

    def check(self) -> None:
        """Check that the bucket exists and can be used, by a listing, because a refused HEAD gives no reason."""
        try:
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        except (BotoCoreError, ClientError) as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> StoreUnavailable:
    """Report only the kind of failure: the full text may name hosts, keys and request ids."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "unknown")
        return StoreUnavailable(f"the object store refused: {code}")
    return StoreUnavailable(f"the object store cannot be reached: {type(error).__name__}")
