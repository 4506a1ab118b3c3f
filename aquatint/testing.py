"""A fake Aquatint server: the same client contract, in process, for your own tests.

    client = fake_client()  # or fake_async_client()
    client.generate("a fox")

Images are one plain colour made from prompt and seed; validation, defaults, events and errors are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Iterator

import numpy as np

from aquatint.client import AsyncClient, Client
from aquatint.client._options import Options
from aquatint.contract.errors import AquatintError
from aquatint.contract.generation import Event, Generation, Progress
from aquatint.contract.image import Image
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import GenerationRequest, ResolvedRequest, resolve
from aquatint.diffusion.served_model import ServedModel

FAKE_MODEL = ServedModel(
    name="fake",
    default_width=64,
    default_height=64,
    default_num_inference_steps=4,
    default_guidance_scale=4.5,
    pixel_unit=16,
    min_size=16,
    max_size=128,
    max_batch_size=8,
    vae_scale_factor=8,
    latent_channels=16,
    scaling_factor=1.0,
    shift_factor=0.0,
    patch_size=2,
    joint_attention_dim=32,
    pooled_projection_dim=16,
    text_encoders=[],
    scheduler={"shift": 3.0},
    preview_factors=[[0.0, 0.0, 0.0]] * 17,
)


class FakeTransport:
    """Answers like a server. ``failures`` are raised one by one, before any success."""

    def __init__(self, served: ServedModel = FAKE_MODEL, failures: list[AquatintError] | None = None) -> None:
        self.served = served
        self.failures = list(failures or [])
        self.requests: list[GenerationRequest] = []

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def is_ready(self, model: str) -> bool:
        """Return whether ``model`` is the served one."""
        return model == self.served.name

    def describe(self, model: str) -> ModelInfo:
        """Describe the fake model."""
        self._fail()
        return self.served.info()

    def generate(self, model: str, request: GenerationRequest, timeout_s: float) -> Generation:
        """Return the last event of ``stream``."""
        *_, last = self.stream(model, request, timeout_s)
        assert isinstance(last, Generation)
        return last

    def stream(self, model: str, request: GenerationRequest, timeout_s: float) -> Iterator[Event]:
        """Yield a ``Progress`` per step, then the ``Generation``."""
        self.requests.append(request)
        self._fail()
        resolved = resolve(request, self.served)
        images = [_image(resolved, seed) for seed in resolved.seeds]
        for step in range(1, resolved.num_inference_steps + 1):
            wanted = resolved.preview_every and step % resolved.preview_every == 0
            yield Progress(
                step, resolved.num_inference_steps, [Image(pixels=image.pixels) for image in images] if wanted else []
            )
        yield Generation(images, resolved)

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


class AsyncFakeTransport:
    """A ``FakeTransport`` for the asynchronous client."""

    def __init__(self, transport: FakeTransport) -> None:
        self._transport = transport

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    async def is_ready(self, model: str) -> bool:
        """Return whether ``model`` is the served one."""
        return self._transport.is_ready(model)

    async def describe(self, model: str) -> ModelInfo:
        """Describe the fake model."""
        return self._transport.describe(model)

    async def generate(self, model: str, request: GenerationRequest, timeout_s: float) -> Generation:
        """Return the last event of ``stream``."""
        return self._transport.generate(model, request, timeout_s)

    async def stream(self, model: str, request: GenerationRequest, timeout_s: float) -> AsyncGenerator[Event, None]:
        """Yield a ``Progress`` per step, then the ``Generation``."""
        for event in self._transport.stream(model, request, timeout_s):
            yield event


class FakeGenerator:
    """The ``ImageGenerator`` behind each of our servers, in process.

    ``gate``, when given, is awaited after the first step; ``active`` counts generations begun and not ended.
    """

    def __init__(self, failures: list[AquatintError] | None = None, gate: asyncio.Event | None = None) -> None:
        self.transport = FakeTransport(failures=failures)
        self.gate = gate
        self.active = 0

    async def models(self) -> list[ModelInfo]:
        """List the fake model."""
        return [self.transport.served.info()]

    async def is_ready(self, model: str | None = None) -> bool:
        """Return whether ``model`` is the fake one."""
        return model in (None, self.transport.served.name)

    async def generate(self, request: GenerationRequest, /, *, timeout_s: float | None = None) -> Generation:
        """Return the last event of ``stream``."""
        async with contextlib.aclosing(self.stream(request, timeout_s=timeout_s)) as events:
            async for event in events:
                if isinstance(event, Generation):
                    return event
        raise AssertionError("a stream ends with a Generation or an error")

    async def stream(
        self, request: GenerationRequest, /, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield a ``Progress`` per step, then the ``Generation``."""
        self.active += 1
        try:
            for event in self.transport.stream(request.model or self.transport.served.name, request, timeout_s or 0.0):
                yield event
                if self.gate is not None:
                    await self.gate.wait()
        finally:
            self.active -= 1


def _image(parameters: ResolvedRequest, seed: int) -> Image:
    colour = np.frombuffer(hashlib.sha256(f"{parameters.prompt}{seed}".encode()).digest()[:3], np.uint8)
    pixels = np.tile(colour, (parameters.height, parameters.width, 1))
    return Image(pixels=pixels, seed=seed, parameters=parameters)


def fake_client(
    failures: list[AquatintError] | None = None, retries: int = 3, transport: FakeTransport | None = None
) -> Client:
    """Make a ``Client`` over ``transport``, or over a ``FakeTransport`` with ``failures``."""
    return Client(transport or FakeTransport(failures=failures), _options(retries))


def fake_async_client(
    failures: list[AquatintError] | None = None, retries: int = 3, transport: FakeTransport | None = None
) -> AsyncClient:
    """Make an ``AsyncClient`` in the same way."""
    return AsyncClient(AsyncFakeTransport(transport or FakeTransport(failures=failures)), _options(retries))


def _options(retries: int) -> Options:
    return Options(url="", models=(FAKE_MODEL.name,), timeout_s=5.0, stall_timeout_s=1.0, retries=retries)
