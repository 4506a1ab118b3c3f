"""Where objects live: folders or S3, behind one interface. Knows nothing about what is stored."""

from aquatint.storage.objects import FileObjects, ObjectInfo, ObjectNotFound, ObjectStore
from aquatint.storage.open import open_objects

__all__ = ["FileObjects", "ObjectInfo", "ObjectNotFound", "ObjectStore", "open_objects"]
