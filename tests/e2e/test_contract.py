"""One table of requests against every engine and protocol there is: the same images, the same errors."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from aquatint_export import ExportOptions, export_checkpoint
from aquatint_export.parity import psnr
from numpy.typing import NDArray
from PIL import Image

from aquatint.contract import errors
from aquatint.contract.image import read_parameters
from aquatint.server import TritonServer
from tests.conftest import CHECKPOINT
from tests.e2e.conftest import FREE_PORTS, eventually
from tests.e2e.endpoints import Answer, ClientEndpoint, Endpoint, V1Endpoint, V2GrpcEndpoint, V2RestEndpoint
from tests.seaweed import free_ports

pytestmark = pytest.mark.e2e

BIN = Path(sys.executable).parent
# FP32 everywhere: engines differ by rounding, which the sampler's steps carry on (measured: 60 dB and more).
MIN_PSNR_DB = 50.0
ENDPOINTS = (
    "onnx in Triton, gRPC",
    "onnx in Triton, HTTP stream",
    "onnx in Triton, V2 REST",
    "torch transformer in Triton, gRPC",
    "diffusers in Triton, gRPC",
    "diffusers in Triton, HTTP stream",
    "diffusers in Triton, V2 REST",
    "KServe runtime, V1 REST",
    "KServe runtime, V2 REST",
    "KServe runtime, V2 gRPC",
    "KServe runtime, our gRPC client",
    "KServe runtime, our HTTP client",
)
FAST = "onnx in Triton"
BY_SPEED = [pytest.param(name, marks=[] if FAST in name else pytest.mark.slow) for name in ENDPOINTS]
SERVERS = {
    "onnx in Triton": "server",
    "torch transformer in Triton": "torch_server",
    "diffusers in Triton": "diffusers_server",
    "KServe runtime": "runtime",
}
REQUESTS: dict[str, dict[str, Any]] = {
    "defaults": {"prompt": "a flat emoji of a fox on a blue background", "seed": 7},
    "every field": {
        "prompt": "an owl, noto style",
        "negative_prompt": "red",
        "num_inference_steps": 9,
        "guidance_scale": 3.25,
        "width": 96,
        "height": 48,
        "seed": 2**40 + 1,
        "num_images": 2,
    },
    "no guidance": {"prompt": "a lemon", "guidance_scale": 1.0, "seed": 1, "num_inference_steps": 5},
    "one step": {"prompt": "a lemon", "num_inference_steps": 1, "seed": 0},
    "largest seed": {"prompt": "a lemon", "num_inference_steps": 2, "seed": 2**63 - 1, "num_images": 2},
    "unicode": {"prompt": "🦊 «renard» 狐", "num_inference_steps": 2, "seed": 3},
    "heun": {"prompt": "a flat emoji of a fox", "sampler": "heun", "seed": 5, "num_inference_steps": 5},
    "too long": {"prompt": "fox " * 200, "num_inference_steps": 2, "seed": 3},
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "empty prompt": ({"prompt": " "}, "prompt"),
    "long prompt": ({"prompt": "x" * 4097}, "prompt"),
    "no steps": ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps"),
    "many steps": ({"prompt": "x", "num_inference_steps": 151}, "num_inference_steps"),
    "guidance": ({"prompt": "x", "guidance_scale": 30.5}, "guidance_scale"),
    "odd width": ({"prompt": "x", "width": 50}, "width"),
    "large height": ({"prompt": "x", "height": 4096}, "height"),
    "seed": ({"prompt": "x", "seed": -1}, "seed"),
    "images": ({"prompt": "x", "num_images": 11}, "num_images"),
    "sampler": ({"prompt": "x", "sampler": "dpm++"}, "sampler"),
}
LONG = {"prompt": "a long one", "num_inference_steps": 150, "num_images": 10, "width": 128, "height": 128}


class Runtime:
    """``aquatint-runtime`` in a process of its own, for kserve and tritonclient cannot share one."""

    def __init__(self, **settings: str) -> None:
        self.http_port, self.grpc_port = free_ports(2)
        self.statuses: list[int] = []
        ports = [f"--http_port={self.http_port}", f"--grpc_port={self.grpc_port}"]
        environment = {**os.environ, "MODEL_NAME": "mini", **settings}
        self.log = tempfile.NamedTemporaryFile(suffix=".log")  # noqa: SIM115 - closed by stop
        command: list[str | Path] = [BIN / "aquatint-runtime", *ports]
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def is_ready(self) -> bool:
        try:
            status = httpx.get(f"{self.url}/v2/models/mini/ready", timeout=5.0).status_code
        except httpx.HTTPError:
            return False
        self.statuses.append(status)
        return status == 200

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self.log.close()


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    running = Runtime(MODEL_ID=str(CHECKPOINT))
    try:
        assert eventually(running.is_ready, within_s=120.0)
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def diffusers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("diffusers") / "repository"
    export_checkpoint(str(CHECKPOINT), repository, ExportOptions(engine="diffusers"))
    with TritonServer(repository, FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="module")
def torch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("torch") / "repository"
    written = export_checkpoint(str(CHECKPOINT), repository, ExportOptions(engine="torch"))
    assert written.engine == "torch"
    assert written.parity["engines"]["failures"] == []
    assert not [name for name in written.files if "__pycache__" in name]
    with TritonServer(repository, FREE_PORTS) as running:
        yield running


@pytest.fixture(params=BY_SPEED)
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    return open_endpoint(request, request.param)


def open_endpoint(request: pytest.FixtureRequest, name: str) -> Endpoint:
    """Open an endpoint, whose server starts when the first of its endpoints is asked for."""
    where, protocol = name.split(", ")
    server = request.getfixturevalue(SERVERS[where])
    if isinstance(server, Runtime):
        http, grpc = f"127.0.0.1:{server.http_port}", f"127.0.0.1:{server.grpc_port}"
    else:
        http, grpc = server.http_url, server.grpc_url
    endpoints: dict[str, Callable[[], Endpoint]] = {
        "gRPC": lambda: ClientEndpoint(grpc, "grpc"),
        "HTTP stream": lambda: ClientEndpoint(http, "http"),
        "V1 REST": lambda: V1Endpoint(http),
        "V2 REST": lambda: V2RestEndpoint(http),
        "V2 gRPC": lambda: V2GrpcEndpoint(grpc),
        "our gRPC client": lambda: ClientEndpoint(grpc, "grpc"),
        "our HTTP client": lambda: ClientEndpoint(http, "http"),
    }
    return endpoints[protocol]()


@pytest.fixture(scope="module")
def references(server: TritonServer) -> dict[str, Answer]:
    """Return what our gRPC client gets from the onnx engine; that it equals diffusers is tested elsewhere."""
    endpoint = ClientEndpoint(server.grpc_url, "grpc")
    return {name: endpoint.generate(fields) for name, fields in REQUESTS.items()}


def pixels(file: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_images(endpoint: Endpoint, references: dict[str, Answer], name: str) -> None:
    answer, expected = endpoint.generate(REQUESTS[name]), references[name]
    ignored = {"preview_every", "model"}
    assert {key: value for key, value in answer.parameters.items() if key not in ignored} == {
        key: value for key, value in expected.parameters.items() if key not in ignored
    }
    assert answer.seeds == expected.seeds
    assert len(answer.files) == len(expected.files)
    for ours, theirs in zip(answer.files, expected.files):
        assert psnr(pixels(ours), pixels(theirs)) >= MIN_PSNR_DB
        assert read_parameters(ours) == read_parameters(theirs)


@pytest.mark.parametrize("name", WRONG)
def test_the_same_errors(endpoint: Endpoint, name: str) -> None:
    fields, field = WRONG[name]
    with pytest.raises(errors.InvalidRequest) as caught:
        endpoint.generate(fields)
    assert f"{field}: " in str(caught.value)


def test_random_seeds_are_returned(endpoint: Endpoint) -> None:
    answers = [endpoint.generate({"prompt": "a fox", "num_inference_steps": 1}) for _ in range(2)]
    assert answers[0].seeds != answers[1].seeds
    again = endpoint.generate({"prompt": "a fox", "num_inference_steps": 1, "seed": answers[0].seeds[0]})
    assert psnr(pixels(again.files[0]), pixels(answers[0].files[0])) >= MIN_PSNR_DB


@pytest.mark.parametrize("name", [each for each in BY_SPEED if "Triton, V2 REST" not in str(each.values[0])])
def test_leaving_frees_the_engine(request: pytest.FixtureRequest, name: str) -> None:
    """After the caller of a long generation left, the next is served at once. Triton's ``infer`` goes on: a limit."""
    endpoint = open_endpoint(request, name)
    endpoint.leave(LONG, after_s=0.7)
    started = time.monotonic()
    endpoint.generate({"prompt": "a fox", "num_inference_steps": 1})
    # To its end the generation takes a minute and more.
    assert time.monotonic() - started < 15.0


# ---------------------------------------------------------------- the runtime on its own


def test_every_instance_is_served(runtime: Runtime, references: dict[str, Answer]) -> None:
    names = ("one step", "no guidance", "every field")
    body = {"instances": [REQUESTS[name] for name in names]}
    predictions = httpx.post(f"{runtime.url}/v1/models/mini:predict", json=body, timeout=60.0).json()["predictions"]
    expected = [file for name in names for file in references[name].files]
    assert [entry["prompt"] for entry in predictions] == ["a lemon", "a lemon", *["an owl, noto style"] * 2]
    for entry, file in zip(predictions, expected, strict=True):
        assert psnr(pixels(base64.b64decode(entry["image"]["b64"])), pixels(file)) >= MIN_PSNR_DB


def test_images_api_on_the_same_port(runtime: Runtime) -> None:
    answer = httpx.post(f"{runtime.url}/v1/images/generations", json={"prompt": "a fox", "steps": 2}, timeout=60.0)
    assert len(answer.json()["data"]) == 1
    refused = httpx.post(f"{runtime.url}/v1/images/generations", json={"prompt": "a fox", "response_format": "url"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")


def test_the_choice_of_dtype_is_explained(runtime: Runtime) -> None:
    assert (
        "cpu (no CUDA device and no Apple GPU); torch.float32 (auto: CPUs compute" in Path(runtime.log.name).read_text()
    )


def test_metadata_and_metrics(runtime: Runtime) -> None:
    metadata = httpx.get(f"{runtime.url}/v2/models/mini").json()
    assert {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}["seed"] == "INT64"
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["image", "png", "seed", "info"]
    assert "request_predict_seconds" in httpx.get(f"{runtime.url}/metrics").text


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{"name": "prompt", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}]},
        {"inputs": [{"name": "prompt", "shape": [1], "datatype": "INT32", "data": [1]}]},
        {"inputs": [{"name": "other", "shape": [1], "datatype": "BYTES", "data": ["a"]}]},
        {"inputs": []},
    ],
    ids=["two values", "wrong type", "unknown field", "no prompt"],
)
def test_wrong_tensors(runtime: Runtime, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{runtime.url}/v2/models/mini/infer", json=body)
    assert answer.status_code == 400
    assert "Traceback" not in answer.text


@pytest.mark.slow
def test_a_full_queue_and_readiness(tmp_path: Path) -> None:
    """Not ready while loading; busy is 429 with a time to come back; a wrong model ends the process."""
    small = Runtime(MODEL_ID=str(CHECKPOINT), AQUATINT_MAX_QUEUED="1")
    statuses: list[int] = []

    def ask() -> None:
        answer = httpx.post(f"{small.url}/v1/models/mini:predict", json={"instances": [body]}, timeout=120.0)
        assert answer.status_code != 429 or int(answer.headers["retry-after"]) > 0
        statuses.append(answer.status_code)

    body = {**LONG, "num_inference_steps": 20, "num_images": 3}
    try:
        assert eventually(small.is_ready, within_s=120.0)
        assert set(small.statuses[:-1]) <= {404, 503}
        assert small.statuses[:-1], "it was never seen loading"
        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 200, 429, 429, 429]
    finally:
        small.stop()
    wrong = Runtime(MODEL_ID=str(tmp_path))
    assert wrong.process.wait(timeout=120) == 1
    assert "ModelRejected: this folder has no model_index.json" in Path(wrong.log.name).read_text()
    wrong.stop()
