import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngImageFile

from aquatint.contract.image import A1111_KEY, Image, read_parameters
from aquatint.contract.request import parse, resolve
from aquatint.testing import FAKE_MODEL

PIXELS = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)


def test_pixels_and_parameters_survive() -> None:
    parameters = resolve(
        parse({"prompt": "ein Füchs 🦊", "negative_prompt": "blur", "seed": 5, "width": 32}), FAKE_MODEL
    )
    data = Image(pixels=PIXELS, parameters=parameters, seed=6).png
    with PILImage.open(io.BytesIO(data)) as image:
        assert isinstance(image, PngImageFile)
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
        text = image.text[A1111_KEY]
    assert text.startswith("ein Füchs 🦊\nNegative prompt: blur\nSteps: 4, Sampler: Euler, CFG scale: 4.5, Seed: 6")
    stored = read_parameters(data)
    assert stored["prompt"] == "ein Füchs 🦊"
    assert stored["seed"] == 6
    assert stored["width"] == 32


def test_same_input_same_bytes() -> None:
    parameters = resolve(parse({"prompt": "a fox", "seed": 5}), FAKE_MODEL)
    first, second = (Image(pixels=PIXELS, parameters=parameters, seed=5) for _ in range(2))
    assert first.png == second.png
    assert first == second != Image(pixels=PIXELS, parameters=parameters, seed=6)


def test_foreign_png() -> None:
    with pytest.raises(ValueError, match="no Aquatint parameters"):
        read_parameters(Image(pixels=PIXELS).png)


def test_saved_whole(tmp_path: Path) -> None:
    parameters = resolve(parse({"prompt": "a fox", "seed": 5}), FAKE_MODEL)
    saved = Image(pixels=PIXELS, parameters=parameters, seed=5).save(tmp_path / "new" / "fox.png")
    assert read_parameters(saved.read_bytes())["seed"] == 5
    assert list(saved.parent.iterdir()) == [saved]
    np.testing.assert_array_equal(Image(png=saved.read_bytes()).pixels, PIXELS)
    assert Image(png=saved.read_bytes()).pil.size == (16, 16)


def test_a_preview_has_no_seed() -> None:
    with pytest.raises(ValueError, match="no seed"):
        _ = Image(pixels=PIXELS).seed
    with pytest.raises(ValueError, match="needs pixels or a PNG"):
        Image()
