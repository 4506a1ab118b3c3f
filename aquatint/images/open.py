"""Open the image store that the settings describe."""

from __future__ import annotations

from functools import partial

from aquatint.contract.errors import StoreUnavailable
from aquatint.images.store import ImageStore, StoreOptions
from aquatint.settings import StorageSettings
from aquatint.storage.objects import FileObjects
from aquatint.storage.open import open_s3
from aquatint.storage.secret_file import read_or_create

_ID_KEY_FILE = ".id-key"


def open_image_store(settings: StorageSettings, public_url: str) -> ImageStore:
    """Keep images in S3 if a bucket is set, with the local folder as a fallback; else in the local folder.

    Raises ``StoreUnavailable`` when the local folder cannot be used or boto3 is missing.
    """
    local = FileObjects(settings.path)
    open_store = partial(
        ImageStore,
        id_key=_id_key(settings),
        public_url=public_url,
        options=StoreOptions(
            ttl_s=settings.ttl_s or None, quota_bytes=settings.quota_bytes or None, presigned=settings.presigned
        ),
    )
    if settings.bucket is None:
        return open_store(local)
    return open_store(open_s3(settings.bucket, settings.prefix, settings.endpoint_url), local=local)


def _id_key(settings: StorageSettings) -> bytes:
    """Return the secret behind image ids: as set, or created once and kept beside the images for its owner only."""
    if settings.id_key is not None:
        return settings.id_key.get_secret_value().encode()
    try:
        return read_or_create(settings.path / _ID_KEY_FILE)
    except OSError as error:
        raise StoreUnavailable(f"the image folder cannot be used: {error.strerror}") from error
