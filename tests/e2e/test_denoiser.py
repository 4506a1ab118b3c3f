"""Images in flight in a real Triton: the same bytes as step by step, in company, cancelled, refused and failing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from aquatint_export.runner import OnnxRunner

from aquatint.client import Client, Generation, Progress, connect
from aquatint.contract import errors
from aquatint.contract.generation import Event
from aquatint.contract.request import GenerationRequest, resolve
from aquatint.diffusion import served_model
from aquatint.diffusion.pipeline import Pipeline
from aquatint.server import TritonServer
from tests.e2e.conftest import FREE_PORTS, Metrics, eventually

pytestmark = pytest.mark.e2e

FOX = GenerationRequest(prompt="a flat emoji of a fox on a blue background", seed=7)
LONG = GenerationRequest(prompt="a long one", seed=1, num_inference_steps=150, num_images=4)


@pytest.fixture(scope="module")
def denoising(mini_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(mini_repository, FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="module")
def step_by_step(mini_repository: Path) -> Pipeline:
    """The same ONNX files in this process, one request at a time."""
    folder = mini_repository / "mini" / "1"
    served = served_model.read(folder)
    components = ["text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae_decoder"]
    paths = {name: mini_repository / served.triton_model(name) / "1" / "model.onnx" for name in components}
    return Pipeline(served, folder, OnnxRunner(paths))


def run(pipeline: Pipeline, asked: GenerationRequest) -> list[Event]:
    return list(pipeline.run(resolve(asked, pipeline.served)))


@pytest.fixture
def flying(denoising: TritonServer) -> Iterator[Client]:
    with connect(url=denoising.grpc_url, protocol="grpc", timeout_s=60.0, retries=0) as client:
        yield client


def test_the_same_bytes_as_step_by_step(flying: Client, step_by_step: Pipeline) -> None:
    for asked in (
        FOX,
        FOX.model_copy(update={"num_images": 3, "width": 96, "height": 48, "num_inference_steps": 5}),
        FOX.model_copy(update={"guidance_scale": 1.0, "num_inference_steps": 4}),
        FOX.model_copy(update={"sampler": "heun", "num_inference_steps": 4}),
    ):
        ours, theirs = flying.generate(asked), run(step_by_step, asked)[-1]
        assert isinstance(theirs, Generation)
        assert [image.png for image in ours.images] == [image.png for image in theirs.images]


def test_every_step_and_preview_is_told(flying: Client, step_by_step: Pipeline) -> None:
    asked = FOX.model_copy(update={"num_inference_steps": 6, "preview_every": 2, "num_images": 2})
    *steps, last = flying.stream(asked)
    *expected, _ = run(step_by_step, asked)
    assert [step.step for step in steps if isinstance(step, Progress)] == [1, 2, 3, 4, 5, 6]
    for ours, theirs in zip(steps, expected, strict=True):
        assert isinstance(ours, Progress)
        assert isinstance(theirs, Progress)
        assert [image.png for image in ours.previews] == [image.png for image in theirs.previews]
    assert isinstance(last, Generation)


def test_company_changes_no_byte(denoising: TritonServer, flying: Client) -> None:
    """Random joins, sizes, steps, guidance and callers that leave; whoever stays gets what it would get alone."""
    chance = random.Random(0)
    wanted = [
        GenerationRequest(
            prompt=f"number {number}",
            seed=number,
            num_inference_steps=chance.randrange(1, 12),
            guidance_scale=chance.choice([1.0, 3.0]),
            width=chance.choice([48, 64]),
            num_images=chance.randrange(1, 3),
        )
        for number in range(40)
    ]

    def ask(request: GenerationRequest) -> list[bytes] | None:
        time.sleep(chance.random())
        with connect(url=denoising.grpc_url, protocol="grpc", timeout_s=120.0) as client:
            if request.seed is not None and request.seed % 5 == 4:
                next(client.stream(request.model_copy(update={"num_inference_steps": 100})))
                return None
            return [image.png for image in client.generate(request).images]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, wanted))
    for request, files in zip(wanted, together):
        if files is not None:
            assert [image.png for image in flying.generate(request).images] == files


def test_leaving_frees_the_denoiser(denoising: TritonServer, flying: Client) -> None:
    metrics = Metrics(denoising.metrics_url)
    events = flying.stream(LONG)
    next(events)
    events.close()  # type: ignore[attr-defined]  # a generator

    def rests() -> bool:
        before = metrics("aquatint_engine_rows_total", model="mini_denoiser")
        time.sleep(0.5)
        return metrics("aquatint_engine_rows_total", model="mini_denoiser") == before

    assert eventually(rests, within_s=10.0)
    # And nothing is left in shared memory.
    assert not list(Path("/dev/shm").glob("aquatint-*-" + "[0-9a-f]" * 32))


def test_deadlines_and_bad_requests(flying: Client) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        flying.generate(LONG, timeout_s=0.5)
    with pytest.raises(errors.InvalidRequest, match="sampler"):
        flying.generate(FOX, sampler="dpm++")


def test_what_cannot_be_in_time_is_refused_at_once(flying: Client) -> None:
    """The caller's own deadline reaches the denoiser, which knows how long its calls take."""
    flying.generate(FOX)
    with pytest.raises(errors.DeadlineExceeded, match="more than its deadline leaves"):
        flying.generate(LONG, timeout_s=0.5)


def test_a_short_request_does_not_wait_for_a_long_one(denoising: TritonServer, flying: Client) -> None:
    with connect(url=denoising.grpc_url, protocol="grpc", timeout_s=300.0) as other:
        events = other.stream(LONG)
        next(events)
        thread = threading.Thread(target=lambda: list(events))
        thread.start()
        started = time.monotonic()
        flying.generate(FOX, num_inference_steps=4)
        took = time.monotonic() - started
        assert thread.is_alive(), f"the long request ended first, after {took:.1f} s"
        thread.join()


def test_a_dead_denoiser_is_an_error_and_comes_back(denoising: TritonServer, flying: Client) -> None:
    pid = denoising._backend_processes()["mini_denoiser"]
    psutil.Process(pid).kill()
    with pytest.raises(errors.EngineUnavailable):
        flying.generate(FOX)
    assert denoising.repair() == ["mini_denoiser"]
    assert flying.generate(FOX, num_inference_steps=1).images
