"""One image of an answer: pixels or a PNG file; the other is made on demand.

A finished image's PNG carries its parameters: as A1111's ``parameters`` text and as our own JSON.
"""

from __future__ import annotations

import io
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from aquatint.contract.request import ResolvedRequest

A1111_KEY = "parameters"
JSON_KEY = "aquatint"


class Image:
    """A finished image with its seed, or a preview without one."""

    def __init__(
        self,
        *,
        pixels: NDArray[np.uint8] | None = None,
        png: bytes | None = None,
        seed: int | None = None,
        parameters: ResolvedRequest | None = None,
    ) -> None:
        self._seed = seed
        self._parameters = parameters
        # Whichever is given fills the cached property of the same name.
        if pixels is not None:
            self.pixels = pixels
        if png is not None:
            self.png = png
        if pixels is None and png is None:
            raise ValueError("an image needs pixels or a PNG file")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.png == other.png and self._seed == other._seed

    def __hash__(self) -> int:
        return hash((self.png, self._seed))

    def __repr__(self) -> str:
        return f"Image({self.pil.width}x{self.pil.height}, seed={self._seed})"

    @property
    def seed(self) -> int:
        """The seed of this image. Raises ``ValueError`` for a preview."""
        if self._seed is None:
            raise ValueError("a preview has no seed of its own")
        return self._seed

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """The pixels, UINT8 ``(height, width, 3)``."""
        return np.asarray(self.pil.convert("RGB"))

    @cached_property
    def png(self) -> bytes:
        """The PNG file; the same pixels and parameters always give the same bytes."""
        info = None
        if self._parameters is not None:
            info = PngInfo()
            info.add_itxt(A1111_KEY, a1111_text(self._parameters, self.seed))
            info.add_itxt(JSON_KEY, json.dumps({**self._parameters.of_one_image(), "seed": self.seed}))
        buffer = io.BytesIO()
        PILImage.fromarray(self.pixels).save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()

    @property
    def pil(self) -> PILImage.Image:
        """The image in Pillow's form, with the PNG file's text."""
        image = PILImage.open(io.BytesIO(self.png))
        image.load()
        return image

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the PNG file, whole or not at all, creating folders as needed; return its path."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        partial.write_bytes(self.png)
        return partial.replace(target)


def read_parameters(png: bytes) -> dict[str, Any]:
    """Read the parameters from a finished image's PNG file. Raises ``ValueError`` if it has none."""
    with PILImage.open(io.BytesIO(png)) as image:
        image.load()
        text = getattr(image, "text", {}).get(JSON_KEY)
    if text is None:
        raise ValueError("this PNG carries no Aquatint parameters")
    parameters: dict[str, Any] = json.loads(text)
    return parameters


def a1111_text(parameters: ResolvedRequest, seed: int) -> str:
    """Describe an image in the text form that AUTOMATIC1111's web UI and most galleries read."""
    negative = f"\nNegative prompt: {parameters.negative_prompt}" if parameters.negative_prompt else ""
    settings = {
        "Steps": parameters.num_inference_steps,
        "Sampler": (parameters.sampler or "euler").capitalize(),
        "CFG scale": parameters.guidance_scale,
        "Seed": seed,
        "Size": f"{parameters.width}x{parameters.height}",
        "Model": parameters.model,
    }
    return f"{parameters.prompt}{negative}\n" + ", ".join(f"{key}: {value}" for key, value in settings.items())
