"""The parity gate once more, through a real Triton that serves the staged repository: what is checked is what runs."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tritonclient.grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from aquatint.contract.errors import EngineUnavailable
from aquatint.diffusion.families import Tensors
from aquatint.diffusion.pipeline import Pipeline
from aquatint.diffusion.served_model import ServedModel
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from aquatint_export import parity
from aquatint_export.components import Component

_VERSION = "1"


class TritonRunner:
    """A ``ComponentRunner`` over the component models of a running server."""

    def __init__(self, url: str, name: str, parts: list[Component]) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(url)
        self._name = name
        self._parts = {part.name: part for part in parts}

    def __call__(self, component: str, inputs: Tensors) -> Tensors:
        """Run one component on a batch. Raises ``EngineUnavailable``."""
        part = self._parts[component]
        tensors = []
        for name, value in inputs.items():
            # Triton has no empty dims: one value per row crosses it as (rows, 1).
            shaped = np.ascontiguousarray(value.reshape(len(value), -1) if value.ndim == 1 else value)
            tensors.append(tritonclient.grpc.InferInput(name, shaped.shape, np_to_triton_dtype(shaped.dtype)))
            tensors[-1].set_data_from_numpy(shaped)
        try:
            result = self._client.infer(f"{self._name}_{component}", tensors)
        except InferenceServerException as error:
            raise EngineUnavailable(f"{component} failed: {error.message()}") from error
        return {port.name: result.as_numpy(port.name) for port in part.outputs}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def run(
    parts: list[Component],
    expected: list[NDArray[np.uint8]],
    staging: Path,
    served: ServedModel,
    dtype: str,
) -> dict[str, Any]:
    """Serve ``staging``, run the gate through it and return its report. Raises ``ModelRejected``.

    The inputs are fresh and lie within the request limits, which is all that an engine's profile takes.
    """
    tokens = sum(encoder.tokens for encoder in served.text_encoders[1:])
    scale = served.vae_scale_factor
    axes = {"sequence": tokens, "latent_width": served.default_width // scale}
    shapes = [
        (1, {**axes, "latent_height": served.min_size // scale}),
        (2, {**axes, "latent_height": served.default_height // scale}),
    ]
    seed = torch.seed() % 2**31
    references = {part.name: parity.reference_outputs(part, seed, shapes) for part in parts}
    try:
        return _run(parts, references, expected, staging, served, dtype)
    finally:
        # What serving leaves behind is no part of the repository.
        for cache in list(staging.rglob("__pycache__")):
            shutil.rmtree(cache)


def _run(
    parts: list[Component],
    references: dict[str, list[tuple[dict[str, NDArray[Any]], list[NDArray[Any]]]]],
    expected: list[NDArray[np.uint8]],
    staging: Path,
    served: ServedModel,
    dtype: str,
) -> dict[str, Any]:
    with (
        TritonServer(staging, ServerSettings(http_port=0, grpc_port=0, metrics_port=0), verify=False) as server,
        contextlib.closing(TritonRunner(server.grpc_url, served.name, parts)) as runner,
    ):
        pipeline = Pipeline(served, staging / served.name / _VERSION, runner)
        report = parity.new_report(dtype)
        for part in parts:
            parity.check_component(report, part, references[part.name], runner)
        parity.check_pictures(report, expected, pipeline)
        return parity.conclude(report).as_dict()
