"""The noise levels of flow matching, as diffusers' ``scheduler_config.json`` describes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNSUPPORTED = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)


@dataclass(frozen=True)
class Schedule:
    """The noise levels that a sampler steps through.

    ``sigmas`` are noise levels, FP32 ``(evaluations + 1,)``, from about 1 down to 0; ``timesteps`` is what the
    transformer is given at each except the last, FP32 ``(evaluations,)``.
    """

    sigmas: NDArray[np.float32]
    timesteps: NDArray[np.float32]


@dataclass(frozen=True)
class FlowMatchConfig:
    """The sigma schedule of Esser et al. 2024, "Scaling Rectified Flow Transformers"; fields are diffusers'."""

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    shift_terminal: float | None = None
    time_shift_type: str = "exponential"

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> FlowMatchConfig:
        """Take the known fields of a diffusers configuration. Raises ``ValueError`` for an unsupported option."""
        if wanted := [name for name in _UNSUPPORTED if config.get(name)]:
            raise ValueError(f"the scheduler option {wanted[0]} is not supported")
        known = {k: config[k] for k in cls.__dataclass_fields__ if config.get(k) is not None}
        return cls(**known)

    def sigmas(self, num_inference_steps: int, image_seq_len: int) -> NDArray[np.float64]:
        """Compute noise levels without the final 0, FP64 ``(steps,)``. ``image_seq_len`` is in transformer patches."""
        first, last = self._training_ends()
        sigmas = np.linspace(first, last, num_inference_steps) / self.num_train_timesteps
        if self.use_dynamic_shifting:
            sigmas = self._time_shift(self._mu(image_seq_len), sigmas)
        else:
            sigmas = self.shift * sigmas / (1 + (self.shift - 1) * sigmas)
        if self.shift_terminal:
            remaining = 1 - sigmas
            sigmas = 1 - remaining / (remaining[-1] / (1 - self.shift_terminal))
        return sigmas

    def _training_ends(self) -> tuple[float, float]:
        """Compute the first and last training timestep. diffusers applies a fixed shift here and again on the grid."""
        ends = np.array([self.num_train_timesteps, 1], np.float32) / np.float32(self.num_train_timesteps)
        if not self.use_dynamic_shifting:
            ends = self.shift * ends / (1 + (self.shift - 1) * ends)
        return float(ends[0]) * self.num_train_timesteps, float(ends[1]) * self.num_train_timesteps

    def _mu(self, image_seq_len: int) -> float:
        slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len)
        return image_seq_len * slope + self.base_shift - slope * self.base_image_seq_len

    def _time_shift(self, mu: float, sigmas: NDArray[np.float64]) -> NDArray[np.float64]:
        factor = math.exp(mu) if self.time_shift_type == "exponential" else mu
        return factor / (factor + (1 / sigmas - 1))
