"""Whether a preview shows its image: what a plain, a shuffled or another image's preview does not."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# The shipped checkpoint's last previews have 0.07 to 0.16 of the squared error of the best plain colour, and correlate
# with the image by 0.92 to 0.97; shuffled ones are worse than the plain colour.
_LARGEST_SHARE = 0.25
_LEAST_CORRELATION = 0.85


def pixels(file: bytes | str) -> NDArray[np.uint8]:
    """Read an image file, or a base64 text, as RGB."""
    data = base64.b64decode(file.rpartition(",")[2]) if isinstance(file, str) else file
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def assert_shows(preview: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    """Check that the preview is the image, small and rough: clearly nearer to it than its mean colour or mixed pixels.

    No plain colour is nearer than the mean, so grey is refused with it.
    """
    height, width = preview.shape[:2]
    wanted = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX), np.float64)
    shown = preview.astype(np.float64)
    shuffled = np.random.default_rng(0).permutation(shown.reshape(-1, 3)).reshape(shown.shape)
    error = _error(shown, wanted)
    assert error < _LARGEST_SHARE * _error(wanted.mean(axis=(0, 1)), wanted), "no better than a plain colour"
    assert error < _LARGEST_SHARE * _error(shuffled, wanted), "no better than its pixels in any order"
    assert np.corrcoef(shown.ravel(), wanted.ravel())[0, 1] > _LEAST_CORRELATION


def _error(guess: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    return float(np.mean((guess - wanted) ** 2))
