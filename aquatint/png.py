"""PNG files that carry their parameters: as A1111's ``parameters`` text and as our own JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from aquatint.request import ResolvedRequest

A1111_KEY = "parameters"
JSON_KEY = "aquatint"


def encode(image: NDArray[np.uint8], parameters: ResolvedRequest, seed: int) -> bytes:
    """A PNG of one UINT8 ``(height, width, 3)`` picture. The same input always gives the same bytes."""
    info = PngInfo()
    info.add_itxt(A1111_KEY, a1111_text(parameters, seed))
    info.add_itxt(
        JSON_KEY, json.dumps({**parameters.model_dump(exclude={"preview_every", "num_images"}), "seed": seed})
    )
    return encode_plain(image, info)


def encode_plain(image: NDArray[np.uint8], info: PngInfo | None = None) -> bytes:
    """A PNG of one UINT8 ``(height, width, 3)`` picture with the text chunks of ``info``."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_parameters(data: bytes) -> dict[str, Any]:
    """The parameters stored by ``encode``. Raises ``ValueError`` if the file has none."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        text = getattr(image, "text", {}).get(JSON_KEY)
    if text is None:
        raise ValueError("this PNG carries no Aquatint parameters")
    parameters: dict[str, Any] = json.loads(text)
    return parameters


def a1111_text(parameters: ResolvedRequest, seed: int) -> str:
    """The text form that AUTOMATIC1111's web UI and most galleries read."""
    negative = f"\nNegative prompt: {parameters.negative_prompt}" if parameters.negative_prompt else ""
    settings = {
        "Steps": parameters.num_inference_steps,
        "Sampler": "Euler",
        "CFG scale": parameters.guidance_scale,
        "Seed": seed,
        "Size": f"{parameters.width}x{parameters.height}",
        "Model": parameters.model,
    }
    return f"{parameters.prompt}{negative}\n" + ", ".join(f"{key}: {value}" for key, value in settings.items())
