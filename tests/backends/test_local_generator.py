"""The generator in this process, over a pipeline that computes nothing."""

from __future__ import annotations

import threading
from collections.abc import Generator

import numpy as np
import pytest
from aquatint_backends.aquatint_runtime.local_generator import LocalGenerator

from aquatint.client import Generation, Progress
from aquatint.contract import errors
from aquatint.contract.generation import Event, finished_images, preview_images
from aquatint.contract.image import read_parameters
from aquatint.contract.request import GenerationRequest, ResolvedRequest
from aquatint.diffusion.pipeline import ANYBODY, Caller
from aquatint.testing import FAKE_MODEL
from tests.serving import until

FOX = GenerationRequest(prompt="a fox", seed=5, num_images=2)


class TwoImages:
    """Generates one black and one white image, once released; counts its checks after the first step."""

    info = FAKE_MODEL.info()
    cache_counts = (0, 0)

    def __init__(self) -> None:
        self.free = threading.Event()
        self.ended: list[str] = []

    def run(self, request: ResolvedRequest, caller: Caller = ANYBODY) -> Generator[Event, None, None]:
        try:
            yield Progress(1, 1, preview_images(np.zeros((2, 8, 8, 3), np.uint8)))
            while not self.free.wait(0.01):
                caller.raise_if_cancelled()
            black = np.zeros((64, 64, 3), np.uint8)
            yield Generation(finished_images(np.stack([black, ~black]), request), request, dropped_tokens=3)
        except errors.AquatintError as error:
            self.ended.append(type(error).__name__)
            raise
        except GeneratorExit:
            self.ended.append("closed")
            raise


@pytest.fixture
def pipeline() -> TwoImages:
    return TwoImages()


@pytest.fixture
def generator(pipeline: TwoImages) -> LocalGenerator:
    generator = LocalGenerator(2, 5.0)
    generator.load(pipeline)
    return generator


async def test_a_generation(generator: LocalGenerator, pipeline: TwoImages) -> None:
    pipeline.free.set()
    step, generation = [event async for event in generator.stream(FOX)]
    assert isinstance(step, Progress)
    assert len(step.previews) == 2
    assert isinstance(generation, Generation)
    assert [image.seed for image in generation.images] == [5, 6]
    assert [read_parameters(image.png)["seed"] for image in generation.images] == [5, 6]
    assert generation.dropped_tokens == 3
    assert generator.active == 0


async def test_exactly_so_many_are_let_in(generator: LocalGenerator, pipeline: TwoImages) -> None:
    streams = [generator.stream(FOX) for _ in range(2)]
    for stream in streams:
        await anext(stream)
    with pytest.raises(errors.Overloaded, match="2 requests are already running or queued") as refused:
        await generator.generate(FOX)
    assert refused.value.retry_after_s == 1.0
    await streams[0].aclose()
    pipeline.free.set()
    assert len((await generator.generate(FOX)).images) == 2
    await streams[1].aclose()
    assert generator.active == 0


async def test_leaving_ends_the_generation(generator: LocalGenerator, pipeline: TwoImages) -> None:
    stream = generator.stream(FOX)
    await anext(stream)
    await stream.aclose()
    await until(lambda: pipeline.ended == ["closed"])
    assert generator.active == 0


@pytest.mark.parametrize(("asked_s", "own_s"), [(0.05, 30.0), (None, 0.05), (30.0, 0.05)])
async def test_the_shorter_deadline_ends_it(pipeline: TwoImages, asked_s: float | None, own_s: float) -> None:
    generator = LocalGenerator(1, own_s)
    generator.load(pipeline)
    with pytest.raises(errors.DeadlineExceeded):
        await generator.generate(FOX, timeout_s=asked_s)
    assert pipeline.ended == ["DeadlineExceeded"]
    assert generator.active == 0
