"""How a diffusers pipeline samples images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Arguments of a pipeline call.

    T5 reads ``max_sequence_length`` tokens, by default all that its tokenizer allows; ``size`` is width and height in
    pixels, by default the model's own.
    """

    num_inference_steps: int
    guidance_scale: float
    max_sequence_length: int | None = None
    size: int | None = None
