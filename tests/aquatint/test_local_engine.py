"""The engine in one's own process, over a drawer that draws nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

import numpy as np
import pytest

from aquatint import errors, png
from aquatint.client import Generation, Step
from aquatint.local_engine import LocalEngine
from aquatint.pipeline import Event, GenerationResult, Progress
from aquatint.request import GenerationRequest, ResolvedRequest
from aquatint.testing import FAKE_MODEL
from tests.serving import until

FOX = GenerationRequest(prompt="a fox", seed=5, num_images=2)


class Drawer:
    """Draws one black and one white picture, once it is let; counts its checks after the first step."""

    info = FAKE_MODEL.info()
    cache_counts = (0, 0)

    def __init__(self) -> None:
        self.free = threading.Event()
        self.ended: list[str] = []

    def run(
        self, request: ResolvedRequest, checkpoint: Callable[[], None] = lambda: None
    ) -> Generator[Event, None, None]:
        try:
            yield Progress(1, 1, np.zeros((2, 8, 8, 3), np.uint8))
            while not self.free.wait(0.01):
                checkpoint()
            black = np.zeros((64, 64, 3), np.uint8)
            yield GenerationResult(np.stack([black, ~black]), request, dropped_tokens=3)
        except errors.AquatintError as error:
            self.ended.append(type(error).__name__)
            raise
        except GeneratorExit:
            self.ended.append("left")
            raise


@pytest.fixture
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture
def engine(drawer: Drawer) -> LocalEngine:
    engine = LocalEngine(2, 5.0)
    engine.load(drawer)
    return engine


async def test_a_drawing(engine: LocalEngine, drawer: Drawer) -> None:
    drawer.free.set()
    step, generation = [event async for event in engine.stream(FOX)]
    assert isinstance(step, Step)
    assert len(step.previews) == 2
    assert isinstance(generation, Generation)
    assert [image.seed for image in generation.images] == [5, 6]
    assert [png.read_parameters(image.png)["seed"] for image in generation.images] == [5, 6]
    assert generation.dropped_tokens == 3
    assert engine.active == 0


async def test_exactly_so_many_are_let_in(engine: LocalEngine, drawer: Drawer) -> None:
    streams = [engine.stream(FOX) for _ in range(2)]
    for stream in streams:
        await anext(stream)
    with pytest.raises(errors.Overloaded, match="2 requests are already running or queued") as refused:
        await engine.generate(FOX)
    assert refused.value.retry_after_s == 1.0
    await streams[0].aclose()
    drawer.free.set()
    assert len((await engine.generate(FOX)).images) == 2
    await streams[1].aclose()
    assert engine.active == 0


async def test_leaving_ends_the_drawing(engine: LocalEngine, drawer: Drawer) -> None:
    stream = engine.stream(FOX)
    await anext(stream)
    await stream.aclose()
    await until(lambda: drawer.ended == ["left"])
    assert engine.active == 0


@pytest.mark.parametrize(("asked_s", "own_s"), [(0.05, 30.0), (None, 0.05), (30.0, 0.05)])
async def test_the_shorter_deadline_ends_it(drawer: Drawer, asked_s: float | None, own_s: float) -> None:
    engine = LocalEngine(1, own_s)
    engine.load(drawer)
    with pytest.raises(errors.DeadlineExceeded):
        await engine.generate(FOX, asked_s)
    assert drawer.ended == ["DeadlineExceeded"]
    assert engine.active == 0
