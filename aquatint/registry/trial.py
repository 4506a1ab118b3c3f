"""Generate a few images with a version, before callers get it and after."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from aquatint.client import Client
from aquatint.contract.errors import ModelRejected
from aquatint.contract.request import GenerationRequest


def try_prompts(client: Client, prompts: list[str], *, version: int) -> None:
    """Generate an image for every prompt. Raises ``AquatintError``; ``ModelRejected`` for an image of one colour."""
    for seed, prompt in enumerate(prompts):
        (generated,) = client.generate(GenerationRequest(prompt=prompt, seed=seed)).images
        with Image.open(io.BytesIO(generated.png)) as image:
            pixels = np.asarray(image)
        if pixels.min() == pixels.max():
            raise ModelRejected(f"version {version} generates blank images")
