"""The whole denoising loop, over any way of running the components.

Four verbs: ``encode`` the prompt, ``denoise`` one step, advance the latents (``samplers``), ``decode``.
Single requests, batches and streams all go through ``Pipeline.run``; it knows nothing about Triton, ONNX or torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from aquatint.contract.errors import EngineUnavailable
from aquatint.contract.generation import Event, Generation, Progress, finished_images, preview_images
from aquatint.contract.image import Image
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion import families
from aquatint.diffusion.preview import preview
from aquatint.diffusion.prompt import Conditioning, EncoderOutput, PromptTokenizer
from aquatint.diffusion.rows import Tensors, call_in_parts
from aquatint.diffusion.served_model import ServedModel
from aquatint.diffusion.slot import Slot, SlotFactory, transformer_inputs


class ComponentRunner(Protocol):
    """Runs one component of the model on named arrays; all that an engine has to provide."""

    def __call__(self, component: str, inputs: Tensors) -> Tensors:
        """Run ``component`` on a batch. Raises ``AquatintError``."""


@dataclass(frozen=True)
class Caller:
    """Who waits for a request: what it raises when it waits no longer, and until when it does.

    ``raise_if_cancelled`` is called before every stage and step and raises ``Cancelled``, ``DeadlineExceeded`` or the
    like; ``deadline`` is a time of ``time.monotonic``.
    """

    raise_if_cancelled: Callable[[], None] = lambda: None
    deadline: float | None = None


ANYBODY = Caller()


class ImagePipeline(Protocol):
    """Generates whole requests step by step: ``Pipeline``, or a model that cannot be run component by component."""

    @property
    def info(self) -> ModelInfo:
        """What callers may know about the model."""

    @property
    def cache_counts(self) -> tuple[int, int]:
        """The numbers of prompts found encoded and of prompts encoded so far."""

    def run(self, request: ResolvedRequest, caller: Caller = ANYBODY) -> Generator[Event, None, None]:
        """Yield ``Progress`` after every step and the ``Generation`` last.

        What the caller raises ends the run. So does closing the generator.
        """


class EncodingCache:
    """Conditionings by prompt, limited in bytes, the least recently used dropped first. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[str, Conditioning] = LRUCache(max_bytes, getsizeof=lambda entry: entry.nbytes)
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def get(self, prompt: str, encode: Callable[[str], Conditioning]) -> Conditioning:
        """Return the conditioning of ``prompt``, encoding it now if it is not cached."""
        with self._lock:
            found = self._entries.get(prompt)
            self.hits += found is not None
            self.misses += found is None
        if found is not None:
            return found
        conditioning = encode(prompt)
        with self._lock:
            # An entry larger than the whole cache is not kept.
            if conditioning.nbytes <= self._entries.maxsize:
                self._entries[prompt] = conditioning
        return conditioning


class Pipeline:
    """One served model: its numbers, tokenizers, scheduler and encoding cache, over a ``ComponentRunner``."""

    def __init__(
        self, served: ServedModel, folder: Path, runner: ComponentRunner, *, cache_bytes: int = 64 << 20
    ) -> None:
        self.served = served
        self.family = families.registry()[served.family]
        self.slots = SlotFactory(served)
        self.cache = EncodingCache(cache_bytes)
        self._tokenize = PromptTokenizer(folder, served.text_encoders)
        self._run = runner
        self._preview_factors = np.array(served.preview_factors)

    def run(self, request: ResolvedRequest, caller: Caller = ANYBODY) -> Generator[Event, None, None]:
        """Generate the images, yielding ``Progress`` after every step and the ``Generation`` last.

        What the caller raises ends the run before the next stage or step.
        """
        started = time.perf_counter()
        caller.raise_if_cancelled()
        positive = self.encode(request.prompt)
        conditionings = [positive] * request.num_images
        if request.uses_guidance:
            conditionings = [self.encode(request.negative_prompt)] * request.num_images + conditionings
        conditioning = self.family.conditioning(conditionings)
        encoded = time.perf_counter()

        latents = self.family.prepare_latents(self.served, request)
        latents = yield from self.denoise(request, latents, conditioning, caller=caller)
        denoised = time.perf_counter()

        caller.raise_if_cancelled()
        images = finished_images(self.decode(latents), request)
        done = time.perf_counter()
        timings = {
            "encode_s": encoded - started,
            "denoise_s": denoised - encoded,
            "decode_s": done - denoised,
            "total_s": done - started,
        }
        yield Generation(images, request, positive.dropped_tokens, timings, {"rows": float(len(conditionings))})

    @property
    def info(self) -> ModelInfo:
        """What callers may know about the model."""
        return self.served.info()

    @property
    def cache_counts(self) -> tuple[int, int]:
        """The numbers of prompts found encoded and of prompts encoded so far."""
        return self.cache.hits, self.cache.misses

    def encode(self, prompt: str) -> Conditioning:
        """Run every present text encoder on ``prompt``, or take the cached result."""
        return self.cache.get(prompt, self._encode)

    def denoise(
        self,
        request: ResolvedRequest,
        latents: NDArray[np.float32],
        conditioning: Tensors,
        *,
        caller: Caller,
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """Yield ``Progress`` after every evaluation of the transformer; return the final latents."""
        slot = self.slots.make(request, latents, conditioning)
        while not slot.is_finished:
            caller.raise_if_cancelled()
            heading_for = slot.advance(self._velocity(slot))
            yield Progress(slot.evaluated, slot.evaluations, self.previews(heading_for))
        denoised: NDArray[np.float32] = slot.latents
        return denoised

    def _velocity(self, slot: Slot) -> NDArray[np.float32]:
        return self._run_in_batches("transformer", transformer_inputs([slot], slot.conditioning()), "noise_pred")

    def previews(self, latents: NDArray[np.float32] | None) -> list[Image]:
        """Guess the images from latents on their way; none from ``None``."""
        return [] if latents is None else preview_images(preview(latents, self._preview_factors))

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Decode latents to images, UINT8 ``(n, height, width, 3)``."""
        scaled = self.family.decoder_input(self.served, latents)
        sample = self._run_in_batches("vae_decoder", {"latent_sample": scaled}, "sample")
        if not np.isfinite(sample).all():
            raise EngineUnavailable("the engine returned values that are not finite")
        pixels = np.clip(sample * np.float32(0.5) + np.float32(0.5), 0.0, 1.0)
        images: NDArray[np.uint8] = np.rint(pixels * np.float32(255.0)).astype(np.uint8)
        return images.transpose(0, 2, 3, 1)

    def _encode(self, prompt: str) -> Conditioning:
        outputs, dropped = {}, 0
        for encoder in self.served.text_encoders:
            if not encoder.present:
                continue
            tokens = self._tokenize(encoder.component, prompt)
            dropped = max(dropped, tokens.dropped)
            result = self._run(encoder.component, {"input_ids": tokens.input_ids})
            pooled = result.get("pooled_prompt_embeds")
            outputs[encoder.component] = EncoderOutput(
                result["prompt_embeds"][0], None if pooled is None else pooled[0]
            )
        return self.family.assemble(self.served, outputs, dropped)

    def _run_in_batches(self, component: str, inputs: Tensors, output: str) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = call_in_parts(
            lambda part: self._run(component, part)[output], inputs, self.served.max_batch_size
        )
        return rows
