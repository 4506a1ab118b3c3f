"""``model.plan`` by TensorRT, on the instance's GPU."""

from __future__ import annotations

import torch
from aquatint_backends.denoiser.engines import Place
from aquatint_backends.tensorrt.engine import Engine
from aquatint_backends.torch_arrays import TorchArrays

from aquatint.diffusion.rows import Tensors


class TensorRTEngine:
    """One execution context; latents and conditioning stay on its GPU."""

    def __init__(self, engine: Engine) -> None:
        self.arrays = TorchArrays(engine.device)
        self._engine = engine

    def __call__(self, inputs: Tensors) -> torch.Tensor:
        """Predict the velocity of every row."""
        with torch.cuda.device(self._engine.device):
            feed = {
                name: torch.as_tensor(inputs[name], device=self._engine.device) for name in self._engine.record.inputs
            }
            return self._engine(feed)[0]


def open_engine(place: Place) -> TensorRTEngine:
    """Check and load the engine. Raises ``AquatintError``."""
    return TensorRTEngine(Engine(place.version, device=place.device, max_rows=place.max_rows))
