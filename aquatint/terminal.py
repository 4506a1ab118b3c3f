"""Pictures in a terminal: two pixels per character cell, in 24-bit colour."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.segment import Segment
from rich.segment import Segments as RichSegments
from rich.style import Style

_UPPER_HALF = "▀"


def render_png(data: bytes, columns: int = 48) -> RichSegments:
    """A PNG file as coloured half blocks, ``columns`` characters wide."""
    with Image.open(io.BytesIO(data)) as image:
        rows = max(2, round(columns * image.height / image.width / 2) * 2)
        pixels = np.asarray(image.convert("RGB").resize((columns, rows), Image.Resampling.BILINEAR))
    return RichSegments([segment for upper, lower in zip(pixels[::2], pixels[1::2]) for segment in _line(upper, lower)])


def _line(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> list[Segment]:
    cells = [Segment(_UPPER_HALF, Style.parse(f"{_hex(top)} on {_hex(bottom)}")) for top, bottom in zip(upper, lower)]
    return [*cells, Segment.line()]


def _hex(colour: NDArray[np.uint8]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
