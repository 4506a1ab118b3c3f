"""``model.plan`` by TensorRT, on the instance's GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from aquatint_backends.denoiser.engines import Place
from aquatint_backends.tensorrt.engine import Engine
from numpy.typing import NDArray

from aquatint.diffusion.rows import Tensors


def open_engine(place: Place) -> Callable[[Tensors], NDArray[np.float32]]:
    """Check and load the engine. Raises ``AquatintError``."""
    engine = Engine(place.version, device=place.device, max_rows=place.max_rows)

    def velocity(inputs: Tensors) -> NDArray[np.float32]:
        return engine({name: inputs[name] for name in engine.record.inputs})[0]

    return velocity
