"""The parity gate once more, through a real Triton that serves the staged repository: what is checked is what runs."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import tritonclient.grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from aquatint.client import connect
from aquatint.contract.errors import EngineUnavailable
from aquatint.diffusion.rows import Tensors
from aquatint.diffusion.served_model import ServedModel
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from aquatint_export import parity
from aquatint_export.components import Component

if TYPE_CHECKING:
    from aquatint_export.stages import Exported


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
            tensors.append(tritonclient.grpc.InferInput(name, value.shape, np_to_triton_dtype(value.dtype)))
            tensors[-1].set_data_from_numpy(value)
        try:
            result = self._client.infer(f"{self._name}_{component}", tensors)
        except InferenceServerException as error:
            raise EngineUnavailable(f"{component} failed: {error.message()}") from error
        return {spec.name: result.as_numpy(spec.name) for spec in part.outputs}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def run(exported: Exported, expected: list[NDArray[np.uint8]], dtype: str) -> dict[str, Any]:
    """Serve the repository in the making, run the gate through it and return its report. Raises ``ModelRejected``.

    The inputs are fresh and lie within the request limits, which is all that an engine's profile takes. The transformer
    is only compared by whole images, since the denoiser calls it by itself.
    """
    references = {
        component.name: parity.reference_outputs(component, torch.seed() % 2**31, _shapes(exported.served))
        for component in _callable(exported)
    }
    ports = ServerSettings(http_port=0, grpc_port=0, metrics_port=0)
    try:
        with TritonServer(exported.folder, ports, verify=False) as server:
            return _compare(server.grpc_url, exported, references, expected, dtype)
    finally:
        # What serving leaves behind is no part of the repository.
        for cache in list(exported.folder.rglob("__pycache__")):
            shutil.rmtree(cache)


def _compare(
    url: str,
    exported: Exported,
    references: dict[str, list[parity.Reference]],
    expected: list[NDArray[np.uint8]],
    dtype: str,
) -> dict[str, Any]:
    report = parity.new_report(dtype)
    components = _callable(exported)
    with contextlib.closing(TritonRunner(url, exported.served.name, components)) as runner:
        for component in components:
            parity.check_component(report, component, references[component.name], runner)
    with connect(url=url, protocol="grpc", model=exported.served.name) as client:
        parity.check_images(report, expected, lambda request: client.generate(request).images[0].pixels)
    return parity.conclude(report).as_dict()


def _callable(exported: Exported) -> list[Component]:
    """List the components that are Triton models of their own."""
    return [traced.component for traced in exported.traced if traced.component.name != "transformer"]


def _shapes(served: ServedModel) -> list[tuple[int, dict[str, int]]]:
    tokens = sum(encoder.tokens for encoder in served.text_encoders[1:])
    scale = served.vae_scale_factor
    axes = {"sequence": tokens, "latent_width": served.default_width // scale}
    heights = (served.min_size // scale, served.default_height // scale)
    return [(rows, {**axes, "latent_height": height}) for rows, height in enumerate(heights, start=1)]
