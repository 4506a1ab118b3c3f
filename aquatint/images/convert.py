"""PNG images in other formats and sizes; the parameters stay in the file."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image

from aquatint.contract.image import A1111_KEY

Format = Literal["png", "jpeg", "webp"]
_USER_COMMENT = 0x9286
_EXIF_IFD = 0x8769
_DEFAULT_QUALITY = 90


def convert(png: bytes, image_format: Format, quality: int | None = None) -> bytes:
    """Convert to PNG (unchanged), JPEG or WebP of ``quality`` 1..100, with the A1111 text as EXIF's UserComment."""
    if image_format == "png":
        return png
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        exif = Image.Exif()
        text = str(getattr(image, "text", {}).get(A1111_KEY, ""))
        # EXIF 2.32, UserComment: an eight-byte name of the encoding comes first; readers of A1111 files expect UTF-16.
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
        quality = max(quality or _DEFAULT_QUALITY, 1)
        image.convert("RGB").save(buffer, image_format.upper(), quality=quality, exif=exif)
    return buffer.getvalue()


def resize(png: bytes, width: int, height: int) -> bytes:
    """Resize a PNG smoothly to ``width`` by ``height``, without its parameters."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def fit(png: bytes, max_bytes: int) -> tuple[bytes, Format]:
    """Return the image as it is if it has at most ``max_bytes``, else as a JPEG made small enough."""
    if len(png) <= max_bytes:
        return png, "png"
    with Image.open(io.BytesIO(png)) as image:
        size = image.size
    for longest_side in (1024, 768, 512, 384, 256, 128):
        scale = min(longest_side / max(size), 1.0)
        jpeg = convert(resize(png, *(max(round(side * scale), 1) for side in size)), "jpeg")
        if len(jpeg) <= max_bytes:
            break
    return jpeg, "jpeg"
