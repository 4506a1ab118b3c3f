"""The events that answer a request: ``Progress`` after every step, the ``Generation`` last.

Every server and client uses these types; ``wire`` says how they travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aquatint.contract.image import Image
from aquatint.contract.request import ResolvedRequest


@dataclass(frozen=True)
class Progress:
    """A denoising step is done; ``previews`` are small images, one per image of the request, if requested."""

    step: int
    total_steps: int
    previews: list[Image] = field(default_factory=list)


@dataclass(frozen=True)
class Generation:
    """A finished request. ``timings`` are seconds per stage on the server, ``batch`` statistics of its rows."""

    images: list[Image]
    parameters: ResolvedRequest
    dropped_tokens: int = 0
    timings: dict[str, float] = field(default_factory=dict)
    batch: dict[str, float] = field(default_factory=dict)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All images, UINT8 ``(images, height, width, 3)``."""
        return np.stack([image.pixels for image in self.images])


Event = Progress | Generation


def finished_images(pixels: NDArray[np.uint8], parameters: ResolvedRequest) -> list[Image]:
    """Pair pixels, UINT8 ``(images, height, width, 3)``, with the request's seeds."""
    return [Image(pixels=each, seed=seed, parameters=parameters) for each, seed in zip(pixels, parameters.seeds)]


def preview_images(pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> list[Image]:
    """Wrap previews, UINT8 ``(images, h, w, 3)``, as images."""
    return [Image(pixels=each) for each in pixels]
