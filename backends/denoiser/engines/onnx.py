"""``model.onnx`` by onnxruntime. On a CPU the rows are split over lanes: single-threaded runs of one session.

onnxruntime's own pool of threads spins while it waits, and collapses when anything else runs beside it.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from aquatint_backends.cpus import usable_cpus
from aquatint_backends.denoiser.engines import Place
from aquatint_backends.onnx_providers import choose_providers
from numpy.typing import NDArray

from aquatint.contract.errors import ModelRejected
from aquatint.diffusion.arrays import HOST, Arrays
from aquatint.diffusion.rows import Tensors

_FILE = "model.onnx"
_OUTPUT = "noise_pred"


class OnnxEngine:
    """One session; ``lanes`` runs of it at once, each of its own rows."""

    arrays: Arrays = HOST

    def __init__(self, file: Path, providers: list[Any], lanes: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        self._names = [each.name for each in self._session.get_inputs()]
        self._lanes = lanes
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane")

    def __call__(self, inputs: Tensors) -> NDArray[np.float32]:
        """Predict the velocity of every row."""
        rows = len(inputs["timestep"])
        bounds = np.linspace(0, rows, min(self._lanes, rows) + 1).round().astype(int)
        spans = list(itertools.pairwise(bounds))
        if len(spans) == 1:
            return self._run(inputs, slice(0, rows))
        # This thread is a lane too.
        others = [self._pool.submit(self._run, inputs, slice(low, high)) for low, high in spans[1:]]
        first = self._run(inputs, slice(*spans[0]))
        return np.concatenate([first, *(other.result() for other in others)])

    def _run(self, inputs: Tensors, rows: slice) -> NDArray[np.float32]:
        velocity: NDArray[np.float32] = self._session.run(
            [_OUTPUT], {name: np.ascontiguousarray(inputs[name][rows]) for name in self._names}
        )[0]
        return velocity


def open_engine(place: Place) -> OnnxEngine:
    """Open the session, on the instance's GPU where it has one.

    Raises ``ModelRejected`` without a model file, ``InvalidConfiguration`` for a provider that is not installed.
    """
    file = place.version / _FILE
    if not file.is_file():
        raise ModelRejected(f"{_FILE} is missing in version {place.version.name}")
    on_gpu = place.kind == "GPU"
    providers = choose_providers(place.parameters, kind=place.kind, device=place.device)
    lanes = int(place.parameters.get("lanes", 1 if on_gpu else usable_cpus()))
    return OnnxEngine(file, providers, lanes)
