"""What a text-to-image model asks of the denoiser, in one call for each request."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from aquatint.contract.request import ResolvedRequest

LATENTS = "latents"
PARAMETERS = "parameters"


class DenoiseParameters(BaseModel):
    """What is asked for beside the tensors.

    ``timeout_s`` is what the request's deadline leaves; ``page`` is the token of its ``Page``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    request: ResolvedRequest
    timeout_s: float
    page: str

    def to_tensor(self) -> NDArray[Any]:
        """Pack into one tensor, ``(1,)``."""
        return np.array([self.model_dump_json().encode()], np.object_)

    @classmethod
    def from_tensor(cls, tensor: NDArray[Any]) -> DenoiseParameters:
        """Unpack. Raises ``ValueError``."""
        return cls.model_validate_json(tensor.reshape(-1)[0])
