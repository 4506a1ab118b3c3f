"""Heun's method for flow matching, equal to diffusers' ``FlowMatchHeunDiscreteScheduler``."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from aquatint.diffusion.samplers.flow_match import FlowMatchConfig, Schedule


class Heun:
    """Evaluates every step but the last twice: it is repeated with the mean of the slopes at its two ends.

    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1.
    """

    name: ClassVar[str] = "heun"
    diffusers_scheduler: ClassVar[str] = "FlowMatchHeunDiscreteScheduler"

    def __init__(self, config: FlowMatchConfig, num_inference_steps: int, image_seq_len: int) -> None:
        # Every level but the first is evaluated as the end of one step and again as the start of the next.
        levels = config.sigmas(num_inference_steps, image_seq_len).astype(np.float32)
        sigmas = np.concatenate([levels[:1], np.repeat(levels[1:], 2), np.zeros(1, np.float32)])
        self.schedule = Schedule(sigmas, sigmas[:-1] * np.float32(config.num_train_timesteps))
        self._start: Any = None
        self._slope: Any = None

    @staticmethod
    def supports(config: FlowMatchConfig) -> bool:
        """Support fixed shifts; diffusers' scheduler has no others."""
        return not config.use_dynamic_shifting and not config.shift_terminal

    def step(self, latents: Any, velocity: Any, index: int) -> Any:
        """Advance ``latents``: an Euler step after even evaluations, its correction after odd ones; any shape."""
        sigmas = self.schedule.sigmas
        slope = (latents - (latents - velocity * sigmas[index])) / sigmas[index]
        if index % 2 == 0:
            self._start, self._slope = latents, slope
            return latents + slope * (sigmas[index + 1] - sigmas[index])
        mean = 0.5 * (self._slope + slope)
        return self._start + mean * (sigmas[index] - sigmas[index - 1])


SAMPLER = Heun
