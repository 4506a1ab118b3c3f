"""What an image may show beyond subject, style and background: its size, two of it, or a colour that is not its own.

Only what the art renders truthfully: sizes and counts rearrange the same artwork, and a colour is changed where one
hue fills most of it. Everything works on the rasterised artwork, so the dataset file stays as it is.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aquatint_pipelines.mini.captions import BACKGROUNDS, STYLES, SUBJECT_COLOURS, Combination
from aquatint_pipelines.mini.dataset import EmojiDataset, compose, is_held_out
from aquatint_pipelines.mini.recipe import ScenesRecipe

_SMALL = 0.55
# The artwork has a margin of 8 % on each side; this fills it.
_LARGE = 1.16
_TWO = 0.5
# Centres of the two, as shares of the image.
_TWO_CENTRES = ((0.27, 0.5), (0.73, 0.5))
_HUE_REACH = 40.0
_COLOURED = 0.25


def combinations(dataset: EmojiDataset, recipe: ScenesRecipe, *, held_out: bool) -> list[Combination]:
    """List all held-out or all training combinations: the plain ones first, then sizes and counts, then colours.

    No subject has the colour of its background: it would hardly be seen.
    """
    plain = dataset.combinations(held_out=held_out)
    arranged = [
        Combination(subject, style, background, arrangement)
        for arrangement in recipe.arrangements
        for subject in dataset.subjects
        for style in STYLES
        for background in BACKGROUNDS
        if arrangement != "two" or subject not in recipe.uncounted
    ]
    coloured = [
        Combination(subject, style, background, colour=colour)
        for subject in dataset.subjects
        if subject in recipe.recoloured
        for colour in SUBJECT_COLOURS
        for style in STYLES
        for background in BACKGROUNDS
        if colour != background
    ]
    return plain + [c for c in arranged + coloured if is_held_out(c) == held_out]


def images(dataset: EmojiDataset, wanted: Sequence[Combination], size: int) -> NDArray[np.uint8]:
    """Compose the images, UINT8 ``(n, size, size, 3)``."""
    index = {subject: i for i, subject in enumerate(dataset.subjects)}
    rgba = np.stack([artwork(dataset.images[c.style][index[c.subject]], c) for c in wanted])
    return compose(rgba, np.array([BACKGROUNDS[c.background] for c in wanted]), size)


def artwork(rgba: NDArray[np.uint8], combination: Combination) -> NDArray[np.uint8]:
    """Recolour and rearrange the subject's plain ``(h, h, 4)`` artwork as the combination says."""
    if combination.colour:
        rgba = recolour(rgba, combination.colour)
    return arrange(rgba, combination.arrangement)


def arrange(rgba: NDArray[np.uint8], arrangement: str) -> NDArray[np.uint8]:
    """Show the artwork ``small``, ``large``, ``two`` times, or as it is for an empty word."""
    if arrangement == "small":
        return _place(rgba, _SMALL, ((0.5, 0.5),))
    if arrangement == "large":
        return _place(rgba, _LARGE, ((0.5, 0.5),))
    if arrangement == "two":
        return _place(rgba, _TWO, _TWO_CENTRES)
    return rgba


def _place(rgba: NDArray[np.uint8], scale: float, centres: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
    side = len(rgba)
    scaled = round(side * scale)
    # Pillow resizes "RGBa" with premultiplied colours, so transparent pixels do not bleed into the edges.
    small = Image.fromarray(rgba).convert("RGBa").resize((scaled, scaled), Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (side, side))
    for x, y in centres:
        layer = Image.new("RGBA", (side, side))
        layer.paste(small, (round(x * side - scaled / 2), round(y * side - scaled / 2)))
        canvas = Image.alpha_composite(canvas, layer)
    return np.asarray(canvas)


def recolour(rgba: NDArray[np.uint8], colour: str) -> NDArray[np.uint8]:
    """Turn the artwork's main hue, and the hues near it, into ``colour``; shades and other hues stay."""
    hsv = _hsv(rgba)
    main = main_hue(rgba)
    hue, saturation, value = (channel / 255.0 for channel in _hsv_of(BACKGROUNDS[colour]))
    near = _near(hsv, main)
    opaque = near & (rgba[..., 3] > 128)
    changed = hsv.copy()
    changed[..., 0] = np.where(near, np.round(hue * 255.0), hsv[..., 0])
    for channel, target in ((1, saturation), (2, value)):
        # The median pixel takes the named colour; lighter and darker ones keep their distance from it.
        shift = target * 255.0 - np.median(hsv[..., channel][opaque])
        changed[..., channel] = np.where(near, np.clip(hsv[..., channel] + shift, 0, 255), hsv[..., channel])
    rgb = np.asarray(Image.fromarray(changed.astype(np.uint8), "HSV").convert("RGB"))
    return np.concatenate([rgb, rgba[..., 3:]], axis=-1)


def main_hue(rgba: NDArray[np.uint8]) -> float:
    """Find the hue, 0 to 255, that most of the coloured pixels have."""
    hsv = _hsv(rgba)
    coloured = (rgba[..., 3] > 128) & (hsv[..., 1] > 255 * _COLOURED)
    counts = np.bincount(hsv[..., 0][coloured].astype(np.int64), minlength=256).astype(np.float64)
    window = np.ones(17)
    return float(np.convolve(np.concatenate([counts[-8:], counts, counts[:8]]), window, "valid").argmax())


def main_share(rgba: NDArray[np.uint8]) -> float:
    """Return the share of the artwork that has its main hue: what ``recolour`` would change."""
    opaque = rgba[..., 3] > 128
    return float((_near(_hsv(rgba), main_hue(rgba)) & opaque).sum() / opaque.sum())


def _hsv(rgba: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgba[..., :3])).convert("HSV")).astype(np.float64)


def _near(hsv: NDArray[np.float64], hue: float) -> NDArray[np.bool_]:
    distance = np.abs((hsv[..., 0] - hue + 128.0) % 256.0 - 128.0)
    near: NDArray[np.bool_] = (distance < _HUE_REACH * 256.0 / 360.0) & (hsv[..., 1] > 255 * _COLOURED)
    return near


def _hsv_of(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """Convert a colour to hue, saturation and value, each 0 to 255."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255.0 for channel in rgb))
    return 255.0 * hue, 255.0 * saturation, 255.0 * value
