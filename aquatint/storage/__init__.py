"""Where finished pictures live: folders or S3, behind one interface, with metadata, expiry and quotas."""

from aquatint.storage.images import ImagePage, ImageStore, StoredImage
from aquatint.storage.objects import FileObjects, ObjectInfo, ObjectNotFound, ObjectStore
from aquatint.storage.open import open_image_store, open_objects

__all__ = [
    "FileObjects",
    "ImagePage",
    "ImageStore",
    "ObjectInfo",
    "ObjectNotFound",
    "ObjectStore",
    "StoredImage",
    "open_image_store",
    "open_objects",
]
