"""The linear latent-to-RGB map behind previews: least squares on random images through the VAE's encoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_IMAGES = 6
_SIDE = 128
_COARSE_SIDES = (1, 2, 4, 8)

Encode = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def fit_preview_factors(encode: Encode, scale_factor: int) -> NDArray[np.float64]:
    """Fit ``(latent channels + 1, 3)`` factors: ``[scaled latents, 1] @ factors`` is RGB in 0..1.

    The last row is the offset. ``encode`` maps FP32 images ``(1, 3, 128, 128)`` in -1..1 to the latents a denoiser
    sees. The images are random colour fields at several scales: they span what a blurred image can look like.
    """
    chance = np.random.default_rng(0)
    images = [_colour_field(side, chance) for side in _COARSE_SIDES for _ in range(_IMAGES)]
    latents = np.concatenate([encode(image[None] * np.float32(2.0) - np.float32(1.0)) for image in images])
    features = latents.transpose(0, 2, 3, 1).reshape(-1, latents.shape[1]).astype(np.float64)
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    side = _SIDE // scale_factor
    blocks = np.stack(images).reshape(-1, 3, side, scale_factor, side, scale_factor)
    colours = blocks.mean(axis=(3, 5)).transpose(0, 2, 3, 1).reshape(-1, 3)
    factors: NDArray[np.float64] = np.linalg.lstsq(features, colours.astype(np.float64), rcond=None)[0]
    return factors


def preview(latents: NDArray[np.float32], factors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Guess the images linearly, UINT8 ``(n, h, w, 3)`` at the resolution of the latents ``(n, c, h, w)``."""
    rgb = np.einsum("nchw,cr->nhwr", latents, factors[:-1].astype(np.float32)) + factors[-1].astype(np.float32)
    pixels: NDArray[np.uint8] = np.rint(np.clip(rgb, 0.0, 1.0) * np.float32(255.0)).astype(np.uint8)
    return pixels


def _colour_field(side: int, chance: np.random.Generator) -> NDArray[np.float32]:
    coarse = chance.integers(0, 256, (side, side, 3), dtype=np.uint8)
    field = Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return np.asarray(field, np.float32).transpose(2, 0, 1) / np.float32(255.0)
