"""The text-to-image models in a real Triton: images, batching, cancellation, bad input."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
from aquatint_export.families.sd3 import checkpoint as checkpoints
from aquatint_export.parity import psnr
from aquatint_export.runner import OnnxRunner
from diffusers import FlowMatchHeunDiscreteScheduler
from PIL import Image
from tritonclient.utils import InferenceServerException

from aquatint.client import Client, Generation, Progress, connect, connect_async
from aquatint.contract import errors, request
from aquatint.contract.image import read_parameters
from aquatint.contract.request import GenerationRequest
from aquatint.diffusion import served_model
from aquatint.diffusion.pipeline import Pipeline
from aquatint.server import TritonServer
from tests.e2e.conftest import FREE_PORTS, Metrics, eventually
from tests.previews import assert_shows, pixels

pytestmark = pytest.mark.e2e

FOX = GenerationRequest(prompt="a flat emoji of a fox on a blue background", seed=7)
LONG = GenerationRequest(prompt="a long one", seed=1, num_inference_steps=150, num_images=4)


def test_an_image_over_each_protocol(client: Client) -> None:
    generation = client.generate(FOX)
    assert pixels(generation.images[0].png).shape == (64, 64, 3)
    assert read_parameters(generation.images[0].png)["prompt"] == FOX.prompt
    assert generation.parameters.num_inference_steps == 28
    assert set(generation.timings) == {"queue_s", "encode_s", "denoise_s", "decode_s", "total_s"}


def test_models_describe_themselves(server: TritonServer, client: Client) -> None:
    (info,) = client.models()
    assert (info.name, info.default_width, info.max_size) == ("mini", 64, 128)
    component = {"url": server.grpc_url, "protocol": "grpc", "models": ["mini_denoiser"]}
    with connect(**component) as other, pytest.raises(errors.ModelNotFound, match="is not a text-to-image model"):
        other.models()
    with connect(url=server.http_url, protocol="http", model="nothing") as other, pytest.raises(errors.ModelNotFound):
        other.models()


def test_same_seed_same_bytes_on_every_path(server: TritonServer, client: Client) -> None:
    first = client.generate(FOX).images[0].png
    assert client.generate(FOX).images[0].png == first
    *_, last = client.stream(FOX)
    assert isinstance(last, Generation)
    assert last.images[0].png == first


def test_equals_diffusers(grpc_client: Client, mini_checkpoint: Path, mini_repository: Path) -> None:
    checkpoint = checkpoints.load(mini_checkpoint, str(mini_checkpoint))
    folder = mini_repository / "mini" / "1"
    pipeline = Pipeline(served_model.read(folder), folder, OnnxRunner({}))
    for asked in (FOX, GenerationRequest(prompt="a car, noto style", seed=2**40 + 1, negative_prompt="red")):
        ours = pixels(grpc_client.generate(asked).images[0].png)
        theirs = checkpoint.generate(request.resolve(asked, pipeline.served), pipeline)
        assert psnr(ours, theirs) >= 50.0


def test_another_sampler_equals_diffusers(grpc_client: Client, mini_checkpoint: Path, mini_repository: Path) -> None:
    checkpoint = checkpoints.load(mini_checkpoint, str(mini_checkpoint))
    scheduler = FlowMatchHeunDiscreteScheduler.from_config(checkpoint.pipeline.scheduler.config)
    checkpoint.pipeline.register_modules(scheduler=scheduler)
    folder = mini_repository / "mini" / "1"
    pipeline = Pipeline(served_model.read(folder), folder, OnnxRunner({}))
    asked = FOX.model_copy(update={"num_inference_steps": 6})
    theirs = checkpoint.generate(request.resolve(asked, pipeline.served), pipeline)
    *steps, last = grpc_client.stream(asked, sampler="heun")
    assert isinstance(last, Generation)
    assert psnr(last.images[0].pixels, theirs) >= 50.0
    # Heun's method evaluates the transformer twice for every step but the last.
    assert [(step.step, step.total_steps) for step in steps if isinstance(step, Progress)][-1] == (11, 11)
    # And it is not what the default sampler gives.
    assert psnr(last.images[0].pixels, grpc_client.generate(asked).images[0].pixels) < 40.0


def test_golden_images(grpc_client: Client, mini_checkpoint: Path) -> None:
    """The shipped weights generate what they always did; processors may round differently, so not byte for byte."""
    golden = mini_checkpoint / "golden"
    for entry in json.loads((golden / "golden.json").read_text()):
        answer = grpc_client.generate(GenerationRequest(prompt=entry["prompt"], seed=entry["seed"]))
        expected = np.asarray(Image.open(golden / entry["file"]).convert("RGB"))
        assert psnr(pixels(answer.images[0].png), expected) >= 35.0, entry["prompt"]


def test_stream_shows_progress_and_previews(client: Client) -> None:
    asked = FOX.model_copy(update={"num_inference_steps": 6, "preview_every": 3, "num_images": 2})
    *steps, last = client.stream(asked)
    assert [step.step for step in steps if isinstance(step, Progress)] == [1, 2, 3, 4, 5, 6]
    assert [len(step.previews) for step in steps if isinstance(step, Progress)] == [0, 0, 2, 0, 0, 2]
    assert isinstance(last, Generation)
    assert isinstance(steps[-1], Progress)
    for preview, image in zip(steps[-1].previews, last.images, strict=True):
        assert_shows(preview.pixels, pixels(image.png))


def test_sizes_images_and_guidance(client: Client) -> None:
    asked = GenerationRequest(prompt="owl", width=96, height=48, num_images=3, seed=5, guidance_scale=1.0)
    generation = client.generate(asked)
    assert [image.seed for image in generation.images] == [5, 6, 7]
    assert {pixels(image.png).shape for image in generation.images} == {(48, 96, 3)}
    assert generation.batch["rows"] == 3
    alone = client.generate(asked.model_copy(update={"num_images": 1, "seed": 6}))
    np.testing.assert_array_equal(pixels(alone.images[0].png), pixels(generation.images[1].png))


def test_truncation_is_reported(client: Client) -> None:
    assert client.generate(GenerationRequest(prompt="fox", num_inference_steps=1)).dropped_tokens == 0
    assert client.generate(GenerationRequest(prompt="fox " * 100, num_inference_steps=1)).dropped_tokens > 50


def test_generate_endpoint(server: TritonServer) -> None:
    answer = post(server, "mini/generate", {"prompt": FOX.prompt, "seed": 7}).json()
    assert pixels(base64.b64decode(answer["png"])).shape == (64, 64, 3)
    assert answer["seed"] == 7
    assert json.loads(answer["info"])["parameters"]["seed"] == 7


def test_raw_pixels_over_infer(server: TritonServer, grpc_client: Client) -> None:
    result = infer(server, {"prompt": FOX.prompt, "seed": 7}, outputs=["image"])
    image = result.as_numpy("image")
    assert image is not None
    np.testing.assert_array_equal(image[0], pixels(grpc_client.generate(FOX).images[0].png))


# ---------------------------------------------------------------- batching


@contextlib.contextmanager
def neighbours(server: TritonServer, count: int) -> Iterator[None]:
    """Have ``count`` other clients generate other things, joining at random moments, until the block ends."""
    stop = threading.Event()

    def generate(index: int) -> None:
        chance = random.Random(index)
        with connect(url=server.grpc_url, protocol="grpc", timeout_s=60.0) as client:
            while not stop.is_set():
                time.sleep(chance.random() * 0.05)
                steps, images = chance.randint(2, 12), chance.randint(1, 3)
                asked: dict[str, Any] = {
                    "num_inference_steps": steps,
                    "num_images": images,
                    "guidance_scale": chance.choice([1.0, 5.0]),
                }
                client.generate(GenerationRequest(prompt=f"neighbour {chance.randint(0, 9)}", **asked))

    threads = [threading.Thread(target=generate, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_company_does_not_change_the_image(server: TritonServer, grpc_client: Client, count: int) -> None:
    asked = FOX.model_copy(update={"num_images": 2})
    alone = [image.png for image in grpc_client.generate(asked).images]
    with neighbours(server, count):
        for _ in range(3):
            assert [image.png for image in grpc_client.generate(asked).images] == alone


def test_steps_of_different_requests_share_a_batch(server: TritonServer, metrics: Metrics) -> None:
    def counts() -> tuple[float, float]:
        names = ("aquatint_engine_rows_total", "aquatint_engine_batches_total")
        return metrics(names[0], model="mini_denoiser"), metrics(names[1], model="mini_denoiser")

    def generate(seed: int) -> None:
        with connect(url=server.grpc_url, protocol="grpc") as client:
            client.generate(GenerationRequest(prompt="owl", seed=seed, num_inference_steps=10 + seed))

    rows_before, batches_before = counts()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(generate, range(16)))
    rows, batches = counts()
    # With guidance every request brings two rows, so more than two means company.
    assert (rows - rows_before) / (batches - batches_before) > 3.0


# ---------------------------------------------------------------- cancel, deadlines, overload


async def test_cancel_over_grpc_frees_the_denoiser(server: TritonServer, metrics: Metrics) -> None:
    before = metrics("aquatint_requests_total", model="mini", outcome="Cancelled")
    async with connect_async(url=server.grpc_url, protocol="grpc") as client:
        task = asyncio.create_task(client.generate(LONG))
        started = metrics("aquatint_steps_total", model="mini")
        assert await asyncio.to_thread(eventually, lambda: metrics("aquatint_steps_total", model="mini") > started)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, errors.Cancelled)):
            await task
    assert eventually(lambda: metrics("aquatint_requests_total", model="mini", outcome="Cancelled") == before + 1)
    stopped = metrics("aquatint_steps_total", model="mini")
    await asyncio.sleep(0.3)
    assert metrics("aquatint_steps_total", model="mini") == stopped


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_leaving_a_stream_cancels_it(server: TritonServer, metrics: Metrics, protocol: str) -> None:
    before = metrics("aquatint_requests_total", model="mini_stream", outcome="Cancelled")
    url = server.grpc_url if protocol == "grpc" else server.http_url
    with connect(url=url, protocol=protocol) as client:
        events = client.stream(LONG)
        assert isinstance(next(events), Progress)
        events.close()  # type: ignore[attr-defined]
        assert eventually(
            lambda: metrics("aquatint_requests_total", model="mini_stream", outcome="Cancelled") == before + 1
        )


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_async_clients(server: TritonServer, protocol: str) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    async with connect_async(url=url, protocol=protocol) as client:
        assert await client.is_ready()
        assert not await client.is_ready("nothing")
        generation = await client.generate(FOX)
        events = [event async for event in client.stream(FOX.model_copy(update={"preview_every": 14}))]
        assert isinstance(events[-1], Generation)
        assert events[-1].images == generation.images
        with pytest.raises(errors.InvalidRequest, match="width"):
            await client.generate(GenerationRequest(prompt="x", width=7))
        with pytest.raises(errors.DeadlineExceeded):
            await client.generate(LONG, timeout_s=0.2)


def test_deadline_ends_the_work(client: Client, metrics: Metrics) -> None:
    def ended() -> float:
        names = ("Cancelled", "DeadlineExceeded")
        return sum(metrics("aquatint_requests_total", outcome=name) for name in names)

    before = ended()
    with pytest.raises(errors.DeadlineExceeded):
        client.generate(LONG, timeout_s=0.3)
    assert eventually(lambda: ended() > before)


def test_a_full_queue_refuses_early(mini_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUATINT_MAX_RUNNING", "1")
    monkeypatch.setenv("AQUATINT_MAX_QUEUED", "1")
    outcomes: list[str] = []

    def generate(url: str) -> None:
        with connect(url=url, protocol="grpc", retries=0) as client:
            try:
                client.generate(LONG.model_copy(update={"num_images": 2}))
                outcomes.append("generated")
            except errors.Overloaded as error:
                outcomes.append("told when to retry" if error.retry_after_s == 1.0 else "refused")

    with TritonServer(mini_repository, FREE_PORTS) as small:
        threads = [threading.Thread(target=generate, args=(small.grpc_url,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ["generated", "generated", *["told when to retry"] * 3]


# ---------------------------------------------------------------- bad input

_TYPES = {"prompt": "BYTES", "seed": "INT64", "guidance_scale": "FP32"}


def infer(server: TritonServer, fields: dict[str, Any], outputs: list[str] | None = None, **types: str) -> Any:
    """Call the unary model by a raw gRPC ``infer``, past everything our client checks."""
    inputs = []
    for name, value in fields.items():
        datatype = types.get(name) or _TYPES.get(name, "INT32")
        dtype = {"BYTES": np.object_, "INT64": np.int64, "FP32": np.float32, "INT32": np.int32}[datatype]
        array = np.array([value], dtype).reshape(-1)
        inputs.append(tritonclient.grpc.InferInput(name, array.shape, datatype))
        inputs[-1].set_data_from_numpy(array)
    wanted = [tritonclient.grpc.InferRequestedOutput(name) for name in outputs or ["info"]]
    with contextlib.closing(tritonclient.grpc.InferenceServerClient(server.grpc_url)) as client:
        return client.infer("mini", inputs, outputs=wanted, client_timeout=30.0)


def post(server: TritonServer, path: str, body: Any) -> httpx.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"http://{server.http_url}/v2/models/{path}", content=data, timeout=30.0)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty prompt": ({"prompt": ""}, "prompt: must not be empty"),
    "blank prompt": ({"prompt": " \n"}, "prompt: must not be empty"),
    "huge prompt": ({"prompt": "x" * 1_000_000}, "prompt: must be at most 4096 bytes"),
    "guidance NaN": ({"prompt": "x", "guidance_scale": float("nan")}, "guidance_scale"),
    "guidance inf": ({"prompt": "x", "guidance_scale": float("inf")}, "guidance_scale"),
    "size 0": ({"prompt": "x", "width": 0}, "width"),
    "size 7": ({"prompt": "x", "height": 7}, "height: must be a multiple of 16"),
    "size 100000": ({"prompt": "x", "width": 100_000}, "width: must be a multiple of 16 from 16 to 128"),
    "steps 0": ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps"),
    "steps 1000000": ({"prompt": "x", "num_inference_steps": 10**6}, "num_inference_steps"),
    "images 11": ({"prompt": "x", "num_images": 11}, "num_images"),
    "seed -1": ({"prompt": "x", "seed": -1}, "seed"),
    "missing input": ({"seed": 1}, "prompt"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_over_infer(server: TritonServer, grpc_client: Client, case: str) -> None:
    fields, message = BAD[case]
    with pytest.raises(InferenceServerException) as refused:
        infer(server, fields)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in refused.value.message()
    assert grpc_client.is_ready()


@pytest.mark.parametrize("path", ["mini/generate", "mini_stream/generate_stream"])
@pytest.mark.parametrize("case", [case for case in BAD if not case.startswith("guidance")])
def test_bad_input_over_generate(server: TritonServer, grpc_client: Client, path: str, case: str) -> None:
    fields, message = BAD[case]
    refused = post(server, path, fields)
    assert refused.status_code == 400
    assert message in refused.text
    assert grpc_client.is_ready()


@pytest.mark.parametrize(
    ("fields", "types", "message"),
    [
        ({"prompt": b"\xff\xfe\xfa"}, {}, "UTF-8"),
        ({"prompt": "x", "cfg": 3}, {}, "cfg"),
        ({"prompt": "x", "seed": 3}, {"seed": "INT32"}, "seed"),
        ({"prompt": 3}, {"prompt": "INT32"}, "prompt"),
        ({"prompt": "x", "width": [64, 64]}, {}, "width"),
    ],
)
def test_wrong_types_and_shapes(
    server: TritonServer, grpc_client: Client, fields: dict[str, Any], types: dict[str, str], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        infer(server, fields, None, **types)
    assert grpc_client.is_ready()


@pytest.mark.parametrize(
    ("body", "message"),
    [({"prompt": "x", "cfg": 3}, "unknown field: cfg"), ({"prompt": ["x", "y"]}, "prompt")],
)
def test_bad_json(server: TritonServer, grpc_client: Client, body: Any, message: str) -> None:
    refused = post(server, "mini/generate", body)
    assert refused.status_code == 400
    assert message in refused.text
    assert grpc_client.is_ready()


def test_malformed_json_is_answered_by_triton_itself(server: TritonServer, grpc_client: Client) -> None:
    refused = post(server, "mini/generate", b"{")
    assert refused.is_error
    assert "failed to parse" in refused.text
    assert grpc_client.is_ready()


def test_unknown_model(client: Client) -> None:
    with pytest.raises(errors.ModelNotFound):
        client.generate(GenerationRequest(prompt="x", model="nothing"))


def test_cache_is_counted(client: Client, metrics: Metrics) -> None:
    asked = GenerationRequest(prompt="a prompt only this test knows", num_inference_steps=1)
    client.generate(asked)
    before = metrics("aquatint_encoding_cache_hits_total")
    client.generate(asked)
    assert eventually(lambda: metrics("aquatint_encoding_cache_hits_total") > before)
