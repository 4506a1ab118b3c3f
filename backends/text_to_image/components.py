"""Text to image over exported components: ``Pipeline`` whose every step is a BLS call, so that requests share batches.

Only importable inside a Triton Python backend process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from aquatint_backends.denoiser.cancelling import Cancellation
from aquatint_backends.denoiser.messages import (
    LATENTS,
    PARAMETERS,
    PROGRESS,
    Answer,
    DenoiseParameters,
    parameters_tensor,
)
from aquatint_backends.text_to_image.base import TextToImageModel
from numpy.typing import NDArray

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, EngineUnavailable
from aquatint.contract.generation import Event, Progress
from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion import served_model
from aquatint.diffusion.families import Tensors
from aquatint.diffusion.pipeline import Pipeline
from aquatint.diffusion.served_model import ServedModel
from aquatint.settings import TextToImageSettings


class BlsRunner:
    """Runs a component by a BLS call to its Triton model."""

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
        # Copied, because the tensor's memory goes with the response.
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


class InFlightPipeline(Pipeline):
    """A pipeline whose requests are denoised together with others': one call of the denoiser for each."""

    def denoise(
        self,
        request: ResolvedRequest,
        latents: NDArray[np.float32],
        conditioning: Tensors,
        raise_if_cancelled: Callable[[], None],
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """Hand the request to the denoiser, and yield ``Progress`` as it answers; returns the final latents."""
        cancellation = Cancellation()
        call = self._call(request, {LATENTS: latents, **conditioning}, cancellation)
        answers = call.exec(decoupled=True)
        ended = False
        evaluated = 0
        try:
            for response in answers:
                if response.has_error():
                    ended = True
                    raise _denoiser_error(response.error().message())
                # Triton closes a stream with an empty response.
                if not response.output_tensors():
                    break
                # Copied, because the tensors' memory goes with the response.
                tensors = {each.name(): np.array(each.as_numpy()) for each in response.output_tensors()}
                answer = Answer.from_tensors(tensors)
                ended = answer.is_final
                if answer.evaluated > evaluated:
                    evaluated = answer.evaluated
                    heading_for = None if answer.is_final else answer.latents
                    yield Progress(answer.evaluated, answer.evaluations, self.previews(heading_for))
                if answer.is_final:
                    assert answer.latents is not None
                    return answer.latents
                raise_if_cancelled()
        finally:
            if not ended:
                cancellation.set()
            # Read to its end, for Triton keeps what is not.
            list(answers)
            cancellation.forget()
        raise EngineUnavailable("the denoiser ended without an image")

    def _call(self, request: ResolvedRequest, tensors: Tensors, cancellation: Cancellation) -> Any:
        parameters = DenoiseParameters(
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale if request.uses_guidance else None,
            sampler=request.sampler,
            preview_every=request.preview_every,
            timeout_s=600.0,
            priority=0,
            cancellation=cancellation.token,
        )
        inputs = [pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in tensors.items()]
        return pb_utils.InferenceRequest(
            model_name=self.served.triton_model("denoiser"),
            requested_output_names=[PROGRESS, LATENTS],
            inputs=[*inputs, pb_utils.Tensor(PARAMETERS, parameters_tensor(parameters))],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )


def _denoiser_error(message: str) -> AquatintError:
    return errors.from_wire(message) or EngineUnavailable("the denoiser failed or is not ready")


class ComponentsModel(TextToImageModel):
    """The components are Triton models of their own."""

    def open_pipeline(self, args: dict[str, str], settings: TextToImageSettings) -> InFlightPipeline:
        """Read the served model's description and tokenizers from this version's folder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        served = served_model.read(folder)
        return InFlightPipeline(served, folder, BlsRunner(served), settings.encoding_cache_bytes)
