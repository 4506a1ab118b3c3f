"""The terminal: where commands print, one-line errors, and images as two pixels per character cell."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.logging import RichHandler
from rich.segment import Segment
from rich.segment import Segments as RichSegments
from rich.style import Style

from aquatint.contract.errors import AquatintError

OUT = Console()
ERR = Console(stderr=True)
_UPPER_HALF = "▀"


@contextlib.contextmanager
def clean_errors() -> Iterator[None]:
    """Print our errors on one line and exit with status 1."""
    try:
        yield
    except AquatintError as error:
        ERR.print(f"[bold red]{type(error).__name__}[/]", end=": ")
        ERR.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def log_to_terminal(level: int, quiet: Sequence[str] = ()) -> None:
    """Log to standard error; the loggers named in ``quiet`` only log warnings and errors."""
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=ERR, show_path=False)])
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)


def render_png(data: bytes, columns: int = 48) -> RichSegments:
    """Render a PNG file as coloured half blocks, ``columns`` characters wide."""
    with Image.open(io.BytesIO(data)) as image:
        rows = max(2, round(columns * image.height / image.width / 2) * 2)
        pixels = np.asarray(image.convert("RGB").resize((columns, rows), Image.Resampling.BILINEAR))
    return RichSegments([segment for upper, lower in zip(pixels[::2], pixels[1::2]) for segment in _line(upper, lower)])


def _line(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> list[Segment]:
    cells = [Segment(_UPPER_HALF, Style.parse(f"{_hex(top)} on {_hex(bottom)}")) for top, bottom in zip(upper, lower)]
    return [*cells, Segment.line()]


def _hex(colour: NDArray[np.uint8]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
