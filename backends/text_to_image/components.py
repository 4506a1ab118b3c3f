"""Text to image over exported components: ``Pipeline`` whose every step is a BLS call, so that requests share batches.

Only importable inside a Triton Python backend process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from aquatint_backends.text_to_image.base import TextToImageModel

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, EngineUnavailable
from aquatint.diffusion import served_model
from aquatint.diffusion.pipeline import Pipeline, Tensors
from aquatint.diffusion.served_model import ServedModel
from aquatint.settings import TextToImageSettings


class BlsRunner:
    """Runs a component through a BLS call to its Triton model."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._outputs = {"transformer": ["noise_pred"], "vae_decoder": ["sample"]}
        for encoder in served.text_encoders:
            pooled = ["pooled_prompt_embeds"] if encoder.kind == "clip" else []
            self._outputs[encoder.component] = ["prompt_embeds", *pooled]

    def __call__(self, component: str, inputs: Tensors) -> Tensors:
        """Run ``component`` on a batch. Raises ``EngineUnavailable`` or ``OutOfMemory``."""
        call = pb_utils.InferenceRequest(
            model_name=self._served.triton_model(component),
            requested_output_names=self._outputs[component],
            inputs=[_tensor(name, value) for name, value in inputs.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = call.exec()
        if response.has_error():
            raise self._engine_error(component, response.error().message())
        # Copied, because the tensor's memory is freed with the response.
        return {tensor.name(): np.array(tensor.as_numpy()) for tensor in response.output_tensors()}

    def _engine_error(self, component: str, message: str) -> AquatintError:
        found = errors.from_wire(message) or errors.internal(RuntimeError(message))
        if isinstance(found, errors.OutOfMemory):
            return found
        pb_utils.Logger.log_error(f"{self._served.triton_model(component)}: {message}")
        return EngineUnavailable(f"the {component} failed or is not ready")


def _tensor(name: str, value: np.ndarray[Any, Any]) -> Any:
    # Triton has no empty dims: one value per row crosses it as (rows, 1).
    return pb_utils.Tensor(name, np.ascontiguousarray(value.reshape(len(value), -1) if value.ndim == 1 else value))


class ComponentsModel(TextToImageModel):
    """The components are Triton models of their own."""

    def open_pipeline(self, args: dict[str, str], settings: TextToImageSettings) -> Pipeline:
        """Read the served model's description and tokenizers from this version's folder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        served = served_model.read(folder)
        return Pipeline(served, folder, BlsRunner(served), cache_bytes=settings.encoding_cache_bytes)
