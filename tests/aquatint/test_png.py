import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from aquatint import png
from aquatint.request import parse, resolve
from aquatint.testing import FAKE_MODEL

PICTURE = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)


def test_pixels_and_parameters_survive() -> None:
    parameters = resolve(
        parse({"prompt": "ein Füchs 🦊", "negative_prompt": "blur", "seed": 5, "width": 32}), FAKE_MODEL
    )
    data = png.encode(PICTURE, parameters, seed=6)
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, PngImageFile)
        np.testing.assert_array_equal(np.asarray(image), PICTURE)
        text = image.text[png.A1111_KEY]
    assert text.startswith("ein Füchs 🦊\nNegative prompt: blur\nSteps: 4, Sampler: Euler, CFG scale: 4.5, Seed: 6")
    stored = png.read_parameters(data)
    assert stored["prompt"] == "ein Füchs 🦊"
    assert stored["seed"] == 6
    assert stored["width"] == 32


def test_same_input_same_bytes() -> None:
    parameters = resolve(parse({"prompt": "a fox", "seed": 5}), FAKE_MODEL)
    assert png.encode(PICTURE, parameters, 5) == png.encode(PICTURE, parameters, 5)


def test_foreign_png() -> None:
    with pytest.raises(ValueError, match="no Aquatint parameters"):
        png.read_parameters(png.encode_plain(PICTURE))
