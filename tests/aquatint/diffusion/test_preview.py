"""Previews of latents whose image is known; no model runs here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aquatint.diffusion.preview import fit_preview_factors, preview
from tests.previews import assert_shows

SCALE = 8
# Sixteen channels that mix the three colours, as a real encoder's do.
MIX = np.random.default_rng(1).normal(size=(3, 16))


def encode(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Encode like a VAE that can be undone: mixed block means of images ``(n, 3, h, w)``."""
    count, _, height, width = images.shape
    blocks = images.reshape(count, 3, height // SCALE, SCALE, width // SCALE, SCALE).mean(axis=(3, 5))
    mixed: NDArray[np.float32] = (np.einsum("nkhw,kc->nchw", blocks, MIX) + 0.25).astype(np.float32)
    return mixed


@pytest.fixture
def image() -> NDArray[np.uint8]:
    """Paint a red disc low on the left, on a background that fades from blue to yellow."""
    down, across = np.mgrid[0:96, 0:64] / 96.0
    fade = np.stack([across, across, 1.0 - across], axis=-1)
    disc = (down - 0.7) ** 2 + (across - 0.2) ** 2 < 0.03
    pixels: NDArray[np.uint8] = np.rint(np.where(disc[..., None], [1.0, 0.1, 0.1], fade) * 255).astype(np.uint8)
    return pixels


def shown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    inputs = (image.astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)[None]
    found: NDArray[np.uint8] = preview(encode(inputs), fit_preview_factors(encode, SCALE))[0]
    return found


def test_the_fit_undoes_a_linear_encoder(image: NDArray[np.uint8]) -> None:
    expected = np.asarray(Image.fromarray(image).resize((8, 12), Image.Resampling.BOX))
    found = shown(image)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_colours_outside_the_range_are_clipped() -> None:
    factors = np.eye(17, 3)
    latents = np.zeros((1, 16, 1, 2), np.float32)
    latents[0, :3, 0] = [[-1.0, 2.0], [0.5, 0.0], [1.0, 7.0]]
    assert preview(latents, factors).tolist() == [[[[0, 128, 255], [255, 0, 255]]]]


FORGERIES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "grey": lambda real: np.full_like(real, 128),
    "mean colour": lambda real: np.broadcast_to(np.rint(real.mean(axis=(0, 1))).astype(np.uint8), real.shape),
    "shuffled": lambda real: np.random.default_rng(3).permutation(real.reshape(-1, 3)).reshape(real.shape),
    "noise": lambda real: np.random.default_rng(4).integers(0, 256, real.shape, np.uint8),
    "turned": lambda real: real[::-1, ::-1],
    "inverted": np.invert,
    "other channels": lambda real: real[..., [2, 0, 1]],
}


def test_the_judge_accepts_the_real_one(image: NDArray[np.uint8]) -> None:
    assert_shows(shown(image), image)


@pytest.mark.parametrize("name", FORGERIES)
def test_the_judge_refuses_forgeries(image: NDArray[np.uint8], name: str) -> None:
    """The judge of every other preview test can itself fail."""
    with pytest.raises(AssertionError):
        assert_shows(FORGERIES[name](shown(image)), image)
