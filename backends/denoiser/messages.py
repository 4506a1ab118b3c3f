"""What a text-to-image model asks of the denoiser, in one call for each request."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

LATENTS = "latents"
PARAMETERS = "parameters"


class DenoiseParameters(BaseModel):
    """What is asked for beside the tensors.

    ``guidance_scale`` is ``None`` without classifier-free guidance; ``timeout_s`` is what the request's deadline
    leaves; ``page`` is the token of a ``Page`` with room for ``evaluations``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_inference_steps: int
    guidance_scale: float | None
    sampler: str | None
    preview_every: int
    timeout_s: float
    priority: int
    page: str

    def to_tensor(self) -> NDArray[Any]:
        """Pack into one tensor, ``(1,)``."""
        return np.array([self.model_dump_json().encode()], np.object_)

    @classmethod
    def from_tensor(cls, tensor: NDArray[Any]) -> DenoiseParameters:
        """Unpack. Raises ``ValueError``."""
        return cls.model_validate_json(tensor.reshape(-1)[0])
