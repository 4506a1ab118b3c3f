"""Text to image over exported components: text encoders and VAE by BLS calls, the steps by one call of the denoiser.

Only importable inside a Triton Python backend process.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from aquatint_backends.denoiser.messages import LATENTS, PARAMETERS, DenoiseParameters
from aquatint_backends.denoiser.page import Page, Shape
from aquatint_backends.text_to_image.base import TextToImageModel
from numpy.typing import NDArray

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, EngineUnavailable
from aquatint.contract.generation import Event, Progress
from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion import served_model
from aquatint.diffusion.pipeline import Caller, Pipeline
from aquatint.diffusion.rows import Tensors
from aquatint.diffusion.served_model import ServedModel
from aquatint.settings import TextToImageSettings

# How soon progress and a caller that has gone are noticed.
_PROGRESS_POLL_S = 0.005


class BlsRunner:
    """Runs a component through a BLS call to its Triton model."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._outputs = {"vae_decoder": ["sample"]}
        for encoder in served.text_encoders:
            pooled = ["pooled_prompt_embeds"] if encoder.kind == "clip" else []
            self._outputs[encoder.component] = ["prompt_embeds", *pooled]

    def __call__(self, component: str, inputs: Tensors) -> Tensors:
        """Run ``component`` on a batch. Raises ``EngineUnavailable`` or ``OutOfMemory``."""
        try:
            return _call_model(self._served.triton_model(component), inputs, self._outputs[component])
        except errors.OutOfMemory:
            raise
        except AquatintError as error:
            raise EngineUnavailable(f"the {component} failed or is not ready") from error


def _call_model(model: str, inputs: Tensors, outputs: list[str]) -> Tensors:
    """Call another Triton model. Raises the ``AquatintError`` it answers with; any other failure is logged."""
    response = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=outputs,
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in inputs.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    ).exec()
    if response.has_error():
        message = response.error().message()
        pb_utils.Logger.log_error(f"{model}: {message}")
        raise errors.from_wire(message) or errors.internal(RuntimeError(message))
    # Copied, because the tensor's memory is freed with the response.
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in response.output_tensors()}


class InFlightPipeline(Pipeline):
    """A pipeline whose requests are denoised together with others': one call of the denoiser for each."""

    def __init__(self, served: ServedModel, folder: Path, settings: TextToImageSettings) -> None:
        super().__init__(served, folder, BlsRunner(served), cache_bytes=settings.encoding_cache_bytes)
        self._timeout_s = settings.request_timeout_s
        self._calls = ThreadPoolExecutor(settings.max_running, thread_name_prefix="denoiser-call")

    def denoise(
        self,
        request: ResolvedRequest,
        latents: NDArray[np.float32],
        conditioning: Tensors,
        *,
        caller: Caller,
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """Hand the request to the denoiser, and yield ``Progress`` as its page says; return the final latents."""
        evaluations = self.slots.make(request, latents, conditioning).evaluations
        shape = Shape(latents=latents.shape, evaluations=evaluations, preview_every=request.preview_every)
        page = Page.make(shape)
        parameters = self._parameters(request, caller, page)
        call = self._calls.submit(self._call, {LATENTS: latents, **conditioning}, parameters)
        told = 0
        try:
            while True:
                ended = bool(futures.wait([call], _PROGRESS_POLL_S).done)
                for evaluated in range(told + 1, page.evaluated + 1):
                    yield Progress(evaluated, evaluations, self.previews(page.preview_after(evaluated)))
                    told = evaluated
                if ended:
                    return call.result()
                caller.raise_if_cancelled()
        finally:
            page.cancel()
            # The denoiser may still write, until its next step.
            futures.wait([call])
            page.close()

    def _parameters(self, request: ResolvedRequest, caller: Caller, page: Page) -> DenoiseParameters:
        deadline = float("inf") if caller.deadline is None else caller.deadline
        timeout_s = min(deadline - time.monotonic(), self._timeout_s)
        return DenoiseParameters(request=request, timeout_s=timeout_s, page=page.token)

    def _call(self, tensors: Tensors, parameters: DenoiseParameters) -> NDArray[np.float32]:
        try:
            inputs = {**tensors, PARAMETERS: parameters.to_tensor()}
            answer = _call_model(self.served.triton_model("transformer"), inputs, [LATENTS])
        except errors.Internal as error:
            raise EngineUnavailable("the denoiser failed or is not ready") from error
        denoised: NDArray[np.float32] = answer[LATENTS]
        return denoised


class ComponentsModel(TextToImageModel):
    """The components are Triton models of their own."""

    def open_pipeline(self, args: dict[str, str], settings: TextToImageSettings) -> Pipeline:
        """Read the served model's description and tokenizers from this version's folder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        served = served_model.read(folder)
        return InFlightPipeline(served, folder, settings)
