"""Generate with a diffusers folder, reproducibly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from numpy.typing import NDArray
from PIL import Image

from aquatint_pipelines.sampling import Sampling

_BATCH = 8


def load_pipeline(folder: Path) -> StableDiffusion3Pipeline:
    """Load the pipeline without progress bars: in BF16 on a GPU, else in FP32."""
    on_gpu = torch.cuda.is_available()
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.bfloat16 if on_gpu else torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda") if on_gpu else pipeline


@torch.no_grad()
def generate(
    pipeline: StableDiffusion3Pipeline,
    prompts: list[str],
    *,
    seeds: list[int],
    sampling: Sampling,
) -> NDArray[np.uint8]:
    """Generate one image per prompt and seed, UINT8 ``(n, h, w, 3)``."""
    parts = []
    for start in range(0, len(prompts), _BATCH):
        part = slice(start, start + _BATCH)
        images: NDArray[np.float32] = pipeline(
            prompts[part],
            width=sampling.size,
            height=sampling.size,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds[part]],
            max_sequence_length=sampling.max_sequence_length or pipeline.tokenizer_3.model_max_length,
            output_type="np",
        ).images
        parts.append(np.rint(images * 255.0).astype(np.uint8))
    return np.concatenate(parts)


def sheet(images: NDArray[np.uint8], columns: int = 4, scale: int = 2) -> Image.Image:
    """Arrange images in a grid, enlarged ``scale`` times."""
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    grid = np.full((rows * columns, height, width, 3), 255, np.uint8)
    grid[:n] = images
    whole = grid.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    return Image.fromarray(whole).resize((columns * width * scale, rows * height * scale), Image.Resampling.LANCZOS)
