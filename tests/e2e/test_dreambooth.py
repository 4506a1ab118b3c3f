"""Five images to a served model, by notebooks and Kubeflow's local runner, on a real Triton and a real S3 server."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from aquatint_pipelines.dreambooth import evaluation, recipe
from aquatint_pipelines.dreambooth.embedding import open_embedder, similarity
from nbclient import NotebookClient
from PIL import Image

from aquatint.client import connect
from aquatint.contract.errors import AquatintError, EngineUnavailable
from aquatint.contract.request import GenerationRequest
from aquatint.registry import LiveTriton, Registry, swap
from aquatint.repository import manifest as manifests
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from aquatint.storage.s3 import S3Objects
from tests.conftest import ROOT
from tests.e2e.processes import WebServer, mcp_environment
from tests.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed, seaweed

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BIN = Path(sys.executable).parent
NOTEBOOKS = ROOT / "pipelines" / "notebooks"
BUCKET = "models"
SUBJECT = GenerationRequest(prompt="a rhdog on a green background", seed=3)
FOX = GenerationRequest(prompt="a flat emoji of a fox on a blue background", seed=7)
PRIOR = recipe.load("mini").prior
assert PRIOR is not None
# Fewer steps than the recipe's own, on two cores that also serve; enough to pass the gate.
SHORT = {
    "max_train_steps": 200,
    "prior": {**PRIOR.model_dump(), "num_class_images": 26},
    "validation": {"every_steps": 200, "prompts": ["a flat emoji of a {token}"]},
}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed")) as running:
        running.client().create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, mini_repository: Path) -> Path:
    """Copy the model repository, so that it may be changed."""
    folder = tmp_path_factory.mktemp("live") / "repository"
    shutil.copytree(mini_repository, folder)
    return folder


@pytest.fixture(scope="module")
def live(repository: Path) -> Iterator[TritonServer]:
    settings = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, admin_key="the-key")
    with TritonServer(repository, settings) as running:
        yield running


@pytest.fixture
def environment(live: TritonServer, s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Build what a shell needs to reach the live server and the S3 server."""
    variables = {
        "AQUATINT_HTTP_PORT": str(live.settings.http_port),
        "AQUATINT_GRPC_PORT": str(live.settings.grpc_port),
        "AQUATINT_ADMIN_KEY": "the-key",
        "AQUATINT_URL": live.grpc_url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_S3_ENDPOINT": s3.endpoint_url,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **variables}


def opened(path: Path) -> Any:
    """Open a notebook."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # nbformat leaves it untyped


def execute(name: str, folder: Path, **variables: str) -> list[Any]:
    """Run a notebook to its end; return the outputs of its cells."""
    notebook = opened(NOTEBOOKS / f"{name}.ipynb")
    kernel = {**os.environ, "WORK": str(folder), **variables}
    # A pipeline trains in one of its cells, beside a server and its clients.
    client = NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(NOTEBOOKS)}})
    client.execute(env=kernel)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(outputs: list[Any]) -> str:
    """Join what the cells printed and showed as text."""
    return "\n".join(str(o.get("text") or o.get("data", {}).get("text/plain", "")) for o in outputs)


def test_notebooks_are_committed_without_outputs() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in opened(path).cells:
            assert not cell.get("outputs"), path.name
            assert cell.get("execution_count") is None, path.name


def test_exploring(tmp_path: Path) -> None:
    outputs = execute("1_exploration", tmp_path)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4


def test_training_and_testing(tmp_path: Path) -> None:
    overrides = json.dumps(
        {
            "max_train_steps": 12,
            "checkpoint_every_steps": 6,
            "num_inference_steps": 8,
            "prior": {"prompts": ["a flat emoji of an owl on a green background"], "num_class_images": 4},
            "validation": {"every_steps": 6, "prompts": ["a flat emoji of a {token}"]},
        }
    )
    trained = execute("2_dreambooth", tmp_path, OVERRIDES=overrides)
    assert "5 instance images, 4 class images" in texts(trained)
    assert "steps=12" in texts(trained)
    tested = execute("3_testing", tmp_path, OVERRIDES=overrides)
    assert sum("image/png" in output.get("data", {}) for output in tested) == 3
    # Whether so few steps are enough is for the gate to say: the notebook shows its verdict in full.
    verdict = evaluation.read(tmp_path / "evaluation").failures() or ["the gate is passed"]
    assert [words for words in verdict if words not in texts(tested)] == []


def test_every_door(live: TritonServer, tmp_path: Path) -> None:
    with WebServer("aquatint-mcp", mcp_environment(live.grpc_url, tmp_path)) as api:
        outputs = execute("4_remote", tmp_path, AQUATINT_URL=live.grpc_url, API_URL=api.url)
    assert "{'gRPC': True, 'images API': True, 'MCP': True}" in texts(outputs)


@dataclass
class Traffic:
    """Clients that never stop asking, unary and streamed; what they were told."""

    url: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    pause_s: float = 1.0

    def __enter__(self) -> Traffic:
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(streamed,)) for streamed in (False, True)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, streamed: bool) -> None:
        with connect(url=self.url, protocol="grpc", retries=0) as client:
            while not self._stopping.wait(self.pause_s):
                try:
                    if streamed:
                        list(client.stream(FOX))
                    else:
                        client.generate(FOX)
                    self.answered += 1
                except AquatintError as error:
                    self.failed.append(f"{type(error).__name__}: {error}")


def png(live: TritonServer, wanted: GenerationRequest) -> bytes:
    with connect(url=live.grpc_url, protocol="grpc") as client:
        return client.generate(wanted).images[0].png


def cli(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [BIN / arguments[0], *arguments[1:]], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_five_images_to_production_and_back(
    live: TritonServer, repository: Path, environment: dict[str, str], s3: Seaweed, tmp_path: Path
) -> None:
    """Under load no request fails, the new version generates the subject, and one command restores the old one."""
    before = png(live, SUBJECT), png(live, FOX)
    store = f"s3://{BUCKET}/registry"
    parameters = {"volume": str(tmp_path / "volume"), "store": store, "live": str(repository), "overrides": SHORT}
    with Traffic(live.grpc_url) as traffic:
        outputs = execute("5_pipeline", tmp_path, PARAMETERS=json.dumps(parameters), RUNS=str(tmp_path / "runs"))
        assert "The gate is passed" in str(outputs)
        after = png(live, SUBJECT), png(live, FOX)
        assert likeness(after[0]) > likeness(before[0]) + 0.1
        assert after[0] != before[0]

        registry = Registry(S3Objects(BUCKET, "registry", s3.endpoint_url), "mini")
        pointer = registry.latest()
        assert pointer is not None
        assert (pointer.version, pointer.earlier) == (1, [2])
        assert {name.partition("/")[0] for name in registry.version(1).files} == {
            "checkpoint",
            "dataset.json",
            "report.html",
            "repository",
        }
        traffic.pause_s = 0.0
        assert "rolled back to version 2" in cli(
            environment, "aquatint", "registry", "rollback", "mini", "--store", store, "--live", str(repository)
        )
    assert (png(live, SUBJECT), png(live, FOX)) == before
    assert traffic.failed == []
    assert traffic.answered > 20
    manifests.verify(repository)
    listed = cli(environment, "aquatint", "registry", "list", "mini", "--store", store)
    assert "in use" in listed


def likeness(image: bytes) -> float:
    """Measure how close an image comes to the subject's."""
    embed = open_embedder()
    subject = [
        Image.open(path).convert("RGB").resize((64, 64)) for path in (ROOT / "pipelines/models/rhdog").glob("*.png")
    ]
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    return similarity(embed(pixels[None]), embed(np.stack([np.asarray(each) for each in subject])))


def test_a_version_that_does_not_load_leaves_the_old_one(
    live: TritonServer, repository: Path, mini_repository: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(mini_repository, broken)
    manifest = manifests.read(broken)
    served = next(folder.name for folder in broken.iterdir() if folder.name.endswith("_vae_decoder"))
    weights = next((broken / served).rglob("*.onnx"))
    weights.write_bytes(weights.read_bytes()[:1000])
    damaged = manifest.model_copy(update={"files": manifests.digest_tree(broken)})
    (broken / "manifest.json").write_text(damaged.model_dump_json())
    before, models = png(live, FOX), sorted(path.name for path in repository.iterdir())
    with Traffic(live.grpc_url, pause_s=0.0) as traffic, pytest.raises(EngineUnavailable, match="vae_decoder"):
        swap(as_live(live, repository), broken, version=50, prompts=[FOX.prompt])
    assert traffic.failed == []
    assert png(live, FOX) == before
    assert sorted(path.name for path in repository.iterdir()) == models
    manifests.verify(repository)


def test_a_swap_that_is_killed_can_be_done_again(
    live: TritonServer, repository: Path, mini_repository: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from aquatint.registry import LiveTriton, swap;"
        "swap(LiveTriton(Path(sys.argv[1]), sys.argv[2], sys.argv[3], 'the-key'), Path(sys.argv[4]), version=60,"
        "     prompts=['a fox'])"
    )
    command = [sys.executable, "-c", script, str(repository), live.http_url, live.grpc_url, str(mini_repository)]
    before = png(live, FOX)
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 60
    while not list(repository.glob("mini-v60_denoiser")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert png(live, FOX) == before
    manifests.verify(repository)
    swap(as_live(live, repository), mini_repository, version=60, prompts=["a fox"])
    assert png(live, FOX) == before
    assert [path.name for path in repository.glob("mini-v60_*")]


def as_live(live: TritonServer, repository: Path) -> LiveTriton:
    return LiveTriton(repository, live.http_url, live.grpc_url, "the-key")


def test_a_list_of_prompts_is_generated_to_a_bucket(
    live: TritonServer, environment: dict[str, str], s3: Seaweed, tmp_path: Path
) -> None:
    parameters = {"count": "3", "url": live.grpc_url, "store": f"s3://{BUCKET}/prompts"}
    options = [part for name, value in parameters.items() for part in ("-p", f"{name}={value}")]
    cli(environment, "aquatint-pipelines", "run", "prompt-list", *options, "--root", str(tmp_path))
    keys = [info.key for info in S3Objects(BUCKET, "prompts", s3.endpoint_url).list("")]
    assert sum(key.endswith(".png") for key in keys) == 3
    assert "results.csv" in keys
