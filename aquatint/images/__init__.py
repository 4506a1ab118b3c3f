"""Finished images: other formats and sizes, and the store that keeps them. Knows nothing about how they are made."""

from aquatint.images.open import open_image_store
from aquatint.images.store import ImagePage, ImageStore, StoredImage, StoreOptions

__all__ = ["ImagePage", "ImageStore", "StoreOptions", "StoredImage", "open_image_store"]
