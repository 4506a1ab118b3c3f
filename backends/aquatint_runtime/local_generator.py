"""An ``ImageGenerator`` over a pipeline in this process: a bounded queue, deadlines and cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Generator

from aquatint.contract import errors
from aquatint.contract.errors import Cancelled, DeadlineExceeded, EngineUnavailable, Overloaded
from aquatint.contract.generation import Event, Generation
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import GenerationRequest, resolve
from aquatint.diffusion.pipeline import Caller, ImagePipeline

_RETRY_AFTER_S = 1.0


class LocalGenerator:
    """Generates with the pipeline passed to ``load``; until then no model is ready.

    At most ``max_active`` requests run or wait. The pipeline decides how many of them run at once.
    """

    def __init__(self, max_active: int, timeout_s: float) -> None:
        self._pipeline: ImagePipeline | None = None
        self._max_active = max_active
        self._timeout_s = timeout_s
        self.active = 0

    def load(self, pipeline: ImagePipeline) -> None:
        """Become ready."""
        self._pipeline = pipeline

    async def models(self) -> list[ModelInfo]:
        """List the one loaded model. Raises ``EngineUnavailable`` before there is one."""
        return [self._loaded().info]

    async def is_ready(self, model: str | None = None) -> bool:
        """Return whether the model is loaded."""
        return self._pipeline is not None and model in (None, self._pipeline.info.name)

    async def generate(self, request: GenerationRequest, /, *, timeout_s: float | None = None) -> Generation:
        """Return the last event of ``stream``."""
        async with contextlib.aclosing(self.stream(request, timeout_s=timeout_s)) as events:
            async for event in events:
                if isinstance(event, Generation):
                    return event
        raise EngineUnavailable("the generation ended without an image")

    async def stream(
        self, request: GenerationRequest, /, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Generate step by step in another thread; leaving the iterator cancels. Raises ``AquatintError``."""
        pipeline = self._loaded()
        if request.model not in (None, pipeline.info.name):
            raise errors.ModelNotFound(f"no model {request.model!r} here; there is: {pipeline.info.name}")
        resolved = resolve(request, pipeline.info)
        if self.active >= self._max_active:
            raise Overloaded(f"{self.active} requests are already running or queued", _RETRY_AFTER_S)
        self.active += 1
        cancelled = threading.Event()
        deadline = time.monotonic() + min(timeout_s or self._timeout_s, self._timeout_s)

        def raise_if_cancelled() -> None:
            if cancelled.is_set():
                raise Cancelled("the request was cancelled")
            if time.monotonic() > deadline:
                raise DeadlineExceeded("the request's time ran out")

        events = pipeline.run(resolved, Caller(raise_if_cancelled, deadline))
        try:
            while (event := await _next_in_thread(events, cancelled)) is not None:
                yield event
        finally:
            # Closed between two events, the generation still has its next one to make.
            cancelled.set()
            events.close()
            self.active -= 1

    def _loaded(self) -> ImagePipeline:
        if self._pipeline is None:
            raise EngineUnavailable("the model is still being loaded")
        return self._pipeline


async def _next_in_thread(events: Generator[Event, None, None], cancelled: threading.Event) -> Event | None:
    """Return the next event, ``None`` at the end. A cancelled task first waits until the generation notices."""
    step = asyncio.ensure_future(asyncio.to_thread(next, events, None))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.gather(step, return_exceptions=True)
        raise
    except errors.AquatintError:
        raise
    # The pipeline may raise anything; callers know only our errors.
    except Exception as error:
        raise errors.internal(error) from None
