"""What crosses between a text-to-image model and the denoiser: one call for each request, many answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

LATENTS = "latents"
PROGRESS = "progress"
PARAMETERS = "parameters"


class DenoiseParameters(BaseModel):
    """What is asked for beside the tensors; ``timeout_s`` is what the request's deadline leaves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_inference_steps: int
    # ``None`` without classifier-free guidance.
    guidance_scale: float | None
    sampler: str | None
    preview_every: int
    timeout_s: float
    priority: int
    cancellation: str


@dataclass(frozen=True)
class Answer:
    """One answer: how far the request is, with the latents of a preview, or at the end the final ones."""

    evaluated: int
    evaluations: int
    is_final: bool
    latents: NDArray[np.float32] | None = None

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Arrange the answer as output tensors."""
        progress = np.array([self.evaluated, self.evaluations, self.is_final], np.int32)
        return {PROGRESS: progress} if self.latents is None else {PROGRESS: progress, LATENTS: self.latents}

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]]) -> Answer:
        """Read what ``tensors`` arranged."""
        evaluated, evaluations, is_final = (int(value) for value in tensors[PROGRESS])
        return cls(evaluated, evaluations, bool(is_final), tensors.get(LATENTS))


def parameters_tensor(parameters: DenoiseParameters) -> NDArray[Any]:
    """Pack the parameters into one tensor."""
    return np.array([parameters.model_dump_json().encode()], np.object_)


def read_parameters(tensor: NDArray[Any]) -> DenoiseParameters:
    """Unpack the parameters. Raises ``ValueError``."""
    return DenoiseParameters.model_validate(json.loads(tensor.reshape(-1)[0]))
