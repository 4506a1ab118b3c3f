"""The flow-matching Euler sampler, equal to diffusers' ``FlowMatchEulerDiscreteScheduler``."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from aquatint.diffusion.samplers.flow_match import FlowMatchConfig, Schedule


class Euler:
    """Evaluates ``dx / d sigma = velocity`` once per step (Esser et al. 2024)."""

    name: ClassVar[str] = "euler"
    diffusers_scheduler: ClassVar[str] = "FlowMatchEulerDiscreteScheduler"

    def __init__(self, config: FlowMatchConfig, num_inference_steps: int, image_seq_len: int) -> None:
        sigmas = np.append(config.sigmas(num_inference_steps, image_seq_len), 0.0).astype(np.float32)
        self.schedule = Schedule(sigmas, sigmas[:-1] * np.float32(config.num_train_timesteps))

    @staticmethod
    def supports(config: FlowMatchConfig) -> bool:
        """Support every flow-matching configuration."""
        return True

    def step(self, latents: Any, velocity: Any, index: int) -> Any:
        """Advance ``latents`` along ``velocity``; any shape."""
        sigmas = self.schedule.sigmas
        return latents + (sigmas[index + 1] - sigmas[index]) * velocity


SAMPLER = Euler
