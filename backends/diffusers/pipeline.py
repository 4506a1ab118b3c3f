"""Any text-to-image ``DiffusionPipeline`` as an ``ImagePipeline`` with one inference thread.

Between two steps, previews are made and a cancelled request ends.
"""

from __future__ import annotations

import inspect
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from aquatint_backends.diffusers.placement import PlacementSettings, choose_device, choose_dtype, place
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray

from aquatint.contract.errors import Cancelled, EngineUnavailable, ModelRejected, OutOfMemory
from aquatint.contract.generation import Event, Generation, Progress, finished_images, preview_images
from aquatint.contract.image import Image
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion import samplers
from aquatint.diffusion.pipeline import ANYBODY, Caller
from aquatint.diffusion.preview import fit_preview_factors, preview
from aquatint.repository import checkpoint_info, hub

_log = logging.getLogger("aquatint.diffusers")

_POLL_S = 0.05
# diffusers' own default for ``max_sequence_length``.
_MAX_T5_TOKENS = 256


class DiffusersPipeline:
    """A loaded pipeline that generates for one request at a time; others wait, and can still be cancelled."""

    def __init__(self, source: str, name: str, settings: PlacementSettings) -> None:
        """Load the weights. Raises ``HubUnavailable``, ``ModelRejected`` or ``InvalidRequest``."""
        folder = hub.fetch(source)
        self.info: ModelInfo = checkpoint_info.model_info(folder, source, name)
        self.cache_counts = (0, 0)
        self._skipping = checkpoint_info.defaults(folder, source).skip_layer_guidance
        device, why_device = choose_device()
        dtype, why_dtype = choose_dtype(settings.dtype, device)
        self._pipeline = _load(folder, dtype, low_cpu_mem=settings.low_cpu_mem)
        done = place(self._pipeline, settings, device)
        self.description = "; ".join([f"{device} ({why_device})", f"{dtype or 'native'} ({why_dtype})", *done])
        _log.info("%s: %s", name, self.description)
        self._pipeline.set_progress_bar_config(disable=True)
        self._own_scheduler = self._pipeline.scheduler
        self._accepted = set(inspect.signature(self._pipeline.__call__).parameters)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._preview_factors: NDArray[np.float64] | None = None

    def run(self, request: ResolvedRequest, caller: Caller = ANYBODY) -> Generator[Event, None, None]:
        """Generate on the inference thread and yield its events here."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        cancelled = threading.Event()
        future = self._thread.submit(self._generate, request, events.put, cancelled)
        try:
            while True:
                caller.raise_if_cancelled()
                try:
                    event = events.get(timeout=_POLL_S)
                except queue.Empty:
                    _raise_failure(future, events)
                    continue
                yield event
                if isinstance(event, Generation):
                    return
        finally:
            cancelled.set()
            future.cancel()

    @torch.inference_mode()
    def _generate(self, request: ResolvedRequest, emit: Callable[[Event], None], cancelled: threading.Event) -> None:
        steps = _Steps(self, request, emit, cancelled)
        self._pipeline.scheduler = self._scheduler(request.sampler)
        started = time.perf_counter()
        images = self._pipeline(**self._arguments(request), callback_on_step_end=steps, output_type="np").images
        ended = time.perf_counter()
        if not np.isfinite(images).all():
            raise EngineUnavailable("the engine returned values that are not finite")
        pixels: NDArray[np.uint8] = np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)
        rows = request.num_images * (2 if request.uses_guidance else 1)
        dropped = self._dropped_tokens(request.prompt)
        timings = steps.timings(started, ended)
        emit(Generation(finished_images(pixels, request), request, dropped, timings, {"rows": float(rows)}))

    def _scheduler(self, sampler: str | None) -> Any:
        """Return the checkpoint's own scheduler, or the one of ``sampler`` with the same configuration."""
        if sampler is None:
            return self._own_scheduler
        kind = getattr(diffusers, samplers.registry()[sampler].diffusers_scheduler)
        return kind.from_config(self._own_scheduler.config)

    def _arguments(self, request: ResolvedRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "width": request.width,
            "height": request.height,
            "num_images_per_prompt": request.num_images,
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds],
        }
        tokenizer = getattr(self._pipeline, "tokenizer_3", None)
        if tokenizer is not None:
            arguments["max_sequence_length"] = min(_MAX_T5_TOKENS, tokenizer.model_max_length)
        if self._skipping is not None:
            arguments |= {
                "skip_guidance_layers": list(self._skipping.layers),
                "skip_layer_guidance_scale": self._skipping.scale,
                "skip_layer_guidance_start": self._skipping.start,
                "skip_layer_guidance_stop": self._skipping.stop,
            }
        return {name: value for name, value in arguments.items() if name in self._accepted}

    def _dropped_tokens(self, prompt: str) -> int:
        dropped = 0
        for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            tokenizer = getattr(self._pipeline, name, None)
            if tokenizer is not None:
                limit = min(tokenizer.model_max_length, _MAX_T5_TOKENS)
                dropped = max(dropped, len(tokenizer(prompt, truncation=False, verbose=False).input_ids) - limit)
        return dropped

    @property
    def scheduler(self) -> Any:
        """The pipeline's scheduler, with the sigmas of the generation in progress."""
        return self._pipeline.scheduler

    def previews(self, latents: NDArray[np.float32]) -> list[Image]:
        """Approximate the images linearly from latents; return none for pipelines without an ``AutoencoderKL``."""
        vae = getattr(self._pipeline, "vae", None)
        if not isinstance(vae, AutoencoderKL) or latents.ndim != 4 or latents.shape[1] != vae.config.latent_channels:
            return []
        if self._preview_factors is None:
            scale = 2 ** (len(vae.config.block_out_channels) - 1)
            self._preview_factors = fit_preview_factors(self._encode, scale)
        return preview_images(preview(latents, self._preview_factors))

    def _encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        vae = self._pipeline.vae
        # Hooks of forward() move offloaded parts, and encode() does not call them.
        inputs = torch.from_numpy(images).to(self._pipeline._execution_device, vae.dtype)
        vae.to(inputs.device)
        latents = vae.encode(inputs).latent_dist.mode()
        scaled = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
        encoded: NDArray[np.float32] = scaled.float().cpu().numpy()
        return encoded


class _Steps:
    """The pipeline's callback: reports every step, makes previews, and ends a cancelled generation."""

    def __init__(
        self,
        owner: DiffusersPipeline,
        request: ResolvedRequest,
        emit: Callable[[Event], None],
        cancelled: threading.Event,
    ) -> None:
        self._owner = owner
        self._request = request
        self._emit = emit
        self._cancelled = cancelled
        self._previous: NDArray[np.float32] | None = None
        self._times: list[float] = []

    def __call__(self, _: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if self._cancelled.is_set():
            raise Cancelled("the request was cancelled")
        self._times.append(time.perf_counter())
        every = self._request.preview_every
        previews: list[Image] = []
        if every:
            latents = tensors["latents"].float().cpu().numpy()
            if (step + 1) % every == 0:
                previews = self._owner.previews(self._clean(latents, step))
            self._previous = latents
        # Some samplers call back more often than there are steps, and some schedulers do not say how often.
        total = max(len(self._owner.scheduler.timesteps), step + 1)
        self._emit(Progress(step + 1, total, previews))
        return tensors

    def _clean(self, latents: NDArray[np.float32], step: int) -> NDArray[np.float32]:
        """Estimate the clean latents if the scheduler steps along a straight line; else return the noisy ones."""
        scheduler = self._owner.scheduler
        if self._previous is None or not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            return latents
        before, after = (float(scheduler.sigmas[index]) for index in (step, step + 1))
        return latents - np.float32(after / (after - before)) * (latents - self._previous)

    def timings(self, started: float, ended: float) -> dict[str, float]:
        """Return the seconds per stage, assuming that the first step took as long as the others."""
        if not self._times:
            return {"encode_s": 0.0, "denoise_s": 0.0, "decode_s": 0.0, "total_s": ended - started}
        first, last = self._times[0], self._times[-1]
        step_s = (last - first) / max(len(self._times) - 1, 1)
        encode_s = max(first - started - step_s, 0.0)
        return {
            "encode_s": encode_s,
            "denoise_s": last - started - encode_s,
            "decode_s": ended - last,
            "total_s": ended - started,
        }


def _raise_failure(future: Future[None], events: queue.SimpleQueue[Event]) -> None:
    """Raise what ended the generation, unless it still runs or has events left to read."""
    if not future.done() or not events.empty():
        return
    error = future.exception()
    if isinstance(error, torch.OutOfMemoryError):
        raise OutOfMemory(
            "too little device memory: lower width, height or num_images, or have the server set ENABLE_CPU_OFFLOAD, "
            "ENABLE_VAE_SLICING or ENABLE_VAE_TILING"
        ) from error
    raise error or EngineUnavailable("the generation ended without an image")


def _load(folder: Path, dtype: torch.dtype | None, *, low_cpu_mem: bool) -> DiffusionPipeline:
    index = checkpoint_info.model_index(folder)
    # diffusers must be told that a component is absent.
    absent = {name: None for name, value in index.items() if isinstance(value, list) and value == [None, None]}
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    try:
        return DiffusionPipeline.from_pretrained(
            folder, use_safetensors=True, low_cpu_mem_usage=low_cpu_mem, local_files_only=True, **options, **absent
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelRejected(f"the checkpoint cannot be read: {reason[:200]}") from error
