"""Draw with a diffusers folder: batches for the judge, sheets for people, golden pictures for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from numpy.typing import NDArray
from PIL import Image

SHEET_PROMPTS = (
    "a flat emoji of a fox on a blue background",
    "a noto emoji of a fox on a blue background",
    "a flat emoji of a penguin on a pink background",
    "a noto emoji of a strawberry on a yellow background",
    "a flat emoji of a rocket on a black background",
    "a noto emoji of a hamburger on a green background",
    "a flat emoji of a cactus on an orange background",
    "a noto emoji of an octopus on a white background",
    "a flat emoji of a house on a purple background",
    "a noto emoji of a tulip on a gray background",
    "a flat emoji of a pizza on a red background",
    "a noto emoji of a panda on a green background",
    "red apple",
    "a car on a blue background",
    "draw a dog in noto style on a pink background",
    "Lemon, flat style, purple background",
)
GOLDEN_PROMPTS = SHEET_PROMPTS[:4]


def load_pipeline(folder: Path) -> StableDiffusion3Pipeline:
    """The pipeline in FP32, without progress bars."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: StableDiffusion3Pipeline, prompts: list[str], seeds: list[int], steps: int, guidance_scale: float
) -> NDArray[np.uint8]:
    """One picture per prompt and seed, UINT8 ``(n, h, w, 3)``."""
    images: NDArray[np.float32] = pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        max_sequence_length=pipeline.tokenizer_3.model_max_length,
        output_type="np",
    ).images
    return np.rint(images * 255.0).astype(np.uint8)


def sheet(pictures: NDArray[np.uint8], columns: int = 4, scale: int = 2) -> Image.Image:
    """Pictures in a grid, enlarged ``scale`` times."""
    n, height, width, _ = pictures.shape
    rows = -(-n // columns)
    grid = np.full((rows * columns, height, width, 3), 255, np.uint8)
    grid[:n] = pictures
    whole = grid.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    return Image.fromarray(whole).resize((columns * width * scale, rows * height * scale), Image.Resampling.LANCZOS)
