"""An ``Engine`` over a ``Drawer`` in this process: a bounded queue, deadlines, and cancelling by leaving."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Generator

from aquatint import errors, png
from aquatint.errors import Cancelled, DeadlineExceeded, EngineUnavailable, Overloaded
from aquatint.generation import GeneratedImage, Generation, Step, StreamEvent
from aquatint.pipeline import Drawer, Event, GenerationResult
from aquatint.request import GenerationRequest, resolve
from aquatint.served_model import ModelInfo

_RETRY_AFTER_S = 1.0


class LocalEngine:
    """Draws with whatever ``load`` gives; until then, and if it fails, nothing is ready.

    At most ``max_active`` requests run or wait. How many really run at once is the drawer's matter.
    """

    def __init__(self, max_active: int, timeout_s: float) -> None:
        self._drawer: Drawer | None = None
        self._max_active = max_active
        self._timeout_s = timeout_s
        self.active = 0

    def load(self, drawer: Drawer) -> None:
        """Become ready."""
        self._drawer = drawer

    async def models(self) -> list[ModelInfo]:
        """The one loaded model. Raises ``EngineUnavailable``."""
        return [self._loaded().info]

    async def is_ready(self, model: str | None = None) -> bool:
        """Whether the model is loaded."""
        return self._drawer is not None and model in (None, self._drawer.info.name)

    async def generate(self, request: GenerationRequest, timeout_s: float | None = None) -> Generation:
        """The last event of ``stream``."""
        async with contextlib.aclosing(self.stream(request, timeout_s)) as events:
            async for event in events:
                if isinstance(event, Generation):
                    return event
        raise EngineUnavailable("the drawing ended without a picture")

    async def stream(
        self, request: GenerationRequest, timeout_s: float | None = None
    ) -> AsyncGenerator[StreamEvent, None]:
        """Draw step by step in another thread. Raises ``AquatintError``."""
        drawer = self._loaded()
        if request.model not in (None, drawer.info.name):
            raise errors.ModelNotFound(f"no model {request.model!r} here; there is: {drawer.info.name}")
        resolved = resolve(request, drawer.info)
        if self.active >= self._max_active:
            raise Overloaded(f"{self.active} requests are already running or queued", _RETRY_AFTER_S)
        self.active += 1
        left = threading.Event()
        deadline = time.monotonic() + min(timeout_s or self._timeout_s, self._timeout_s)

        def checkpoint() -> None:
            if left.is_set():
                raise Cancelled("the request was cancelled")
            if time.monotonic() > deadline:
                raise DeadlineExceeded("the request's time ran out")

        events = drawer.run(resolved, checkpoint)
        try:
            while (event := await _next_in_thread(events, left)) is not None:
                yield _as_stream_event(event)
        finally:
            # Left between two events the drawing still waits for its next one.
            left.set()
            events.close()
            self.active -= 1

    def _loaded(self) -> Drawer:
        if self._drawer is None:
            raise EngineUnavailable("the model is still being loaded")
        return self._drawer


async def _next_in_thread(events: Generator[Event, None, None], left: threading.Event) -> Event | None:
    """The next event, ``None`` at the end. A cancelled task first waits for the drawing to notice."""
    step = asyncio.ensure_future(asyncio.to_thread(next, events, None))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        left.set()
        await asyncio.gather(step, return_exceptions=True)
        raise
    except errors.AquatintError:
        raise
    # Whatever the engine raised: callers only know our errors.
    except Exception as error:
        raise errors.internal(error) from None


def _as_stream_event(event: Event) -> StreamEvent:
    if isinstance(event, GenerationResult):
        images = [
            GeneratedImage(png.encode(image, event.parameters, seed), seed)
            for image, seed in zip(event.images, event.parameters.seeds)
        ]
        return Generation(images, event.parameters, event.dropped_tokens, event.timings, event.batch)
    previews = [] if event.preview is None else [png.encode_plain(image) for image in event.preview]
    return Step(event.step, event.total_steps, previews)
