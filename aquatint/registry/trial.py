"""A few real pictures through a version, before callers get it and after."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from aquatint.client import Client
from aquatint.contract.errors import ModelRejected
from aquatint.contract.request import GenerationRequest


def draw(client: Client, prompts: list[str], version: int) -> None:
    """Draw every prompt. Raises what drawing does, and ``ModelRejected`` for a picture of one colour."""
    for seed, prompt in enumerate(prompts):
        (image,) = client.generate(GenerationRequest(prompt=prompt, seed=seed)).images
        with Image.open(io.BytesIO(image.png)) as picture:
            pixels = np.asarray(picture)
        if pixels.min() == pixels.max():
            raise ModelRejected(f"version {version} draws blank pictures")
