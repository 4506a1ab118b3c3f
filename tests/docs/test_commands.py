"""The documents' commands and programs run, as printed but for the ports."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aquatint.client import readiness
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from tests.conftest import ROOT
from tests.docs.documents import SERVERS, Block, run_by
from tests.e2e.conftest import eventually
from tests.e2e.processes import BIN
from tests.seaweed import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PRINTED = ("8000", "8001", "8002", "8080", "8090", "8020", "8021")
# What each of these runs is said in its test.
RUNNERS = (SERVERS, "exports", "own checkpoint", "serve", "registry", "runtime")


class Place:
    """A folder in which commands find what they name, on ports that nothing else has."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        (folder / "build").mkdir()
        (folder / "build" / "repository").symlink_to(repository)
        (folder / "pipelines").symlink_to(ROOT / "pipelines")
        self.ports = dict(zip(PRINTED, map(str, free_ports(len(PRINTED)))))
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "AQUATINT_URL": f"127.0.0.1:{self.ports['8001']}",
        }

    def here(self, text: str) -> str:
        """``text`` with the ports of this place, programs by the PATH, and curl failing where the server does."""
        ports = re.compile(rf"(?<=[: ])({'|'.join(self.ports)})\b")
        moved = ports.sub(lambda found: self.ports[found[1]], text)
        return moved.replace(".venv/bin/", "").replace("curl ", "curl --fail-with-body ")

    def run(self, block: Block, more: str = "") -> subprocess.CompletedProcess[str]:
        """Run a block, with ``more`` behind its last line; fails with what it said."""
        text = self.here(block.text.rstrip()) + more
        program = (
            [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        )
        done = subprocess.run(
            program, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, f"{block.document}:\n{block.text}\n{done.stdout}{done.stderr}"
        assert [image for image in block.images if not (self.folder / image).is_file()] == []
        return done

    def server(self) -> ServerSettings:
        """Triton's settings with this place's ports."""
        http, grpc, metrics = (int(self.ports[printed]) for printed in ("8000", "8001", "8002"))
        return ServerSettings(http_port=http, grpc_port=grpc, metrics_port=metrics)


@pytest.fixture
def place(tmp_path: Path, mini_repository: Path) -> Place:
    return Place(tmp_path, mini_repository)


@pytest.fixture(scope="module")
def served_place(tmp_path_factory: pytest.TempPathFactory, mini_repository: Path) -> Iterator[Place]:
    """A place with Triton, the MCP server and the chat."""
    place = Place(tmp_path_factory.mktemp("place"), mini_repository)
    with TritonServer(mini_repository, place.server()), contextlib.ExitStack() as stack:
        for program, port in (("aquatint-mcp", place.ports["8080"]), ("aquatint-chat", place.ports["8090"])):
            own = {"PORT": port, "AQUATINT_CHAT_MCP_URL": f"http://127.0.0.1:{place.ports['8080']}/mcp"}
            process = subprocess.Popen([BIN / program], cwd=place.folder, env={**place.environment, **own})
            stack.callback(process.wait)
            stack.callback(process.terminate)
            url = f"http://127.0.0.1:{port}/health/ready"
            assert eventually(functools.partial(readiness.is_ready, url), within_s=60.0)
        yield place


@pytest.mark.parametrize("document", dict.fromkeys(block.document for block in run_by(SERVERS)))
def test_clients(served_place: Place, document: str) -> None:
    for block in run_by(SERVERS):
        if block.document == document:
            served_place.run(block)


def test_exports(place: Place) -> None:
    for block in run_by("exports"):
        place.run(block)
        for out in re.findall(r"--out (\S+)", block.text):
            assert (place.folder / out / "manifest.json").is_file()


def test_own_checkpoint(place: Place) -> None:
    """Exported, served, and asked for one image."""
    (block,) = run_by("own checkpoint")
    place.run(block, " --http-port=0 --grpc-port=0 --metrics-port=0 --once --draw='a fox' --out=image.png")
    assert (place.folder / "image.png").is_file()


def test_serve_takes_a_checkpoint(place: Place) -> None:
    (block,) = run_by("serve")
    more = " --http-port=0 --grpc-port=0 --metrics-port=0 --once --draw='a fox' --out=image.png"
    words = " ".join(place.run(block, more).stderr.split())
    assert "not served by tensorrt: there is no NVIDIA GPU to run TensorRT engines" in words
    assert "served by onnx: exported to ONNX and past the parity gate" in words
    assert (place.folder / "image.png").is_file()


def test_registry(place: Place) -> None:
    (block,) = run_by("registry")
    assert "in use" in place.run(block).stdout
    assert (place.folder / "build" / "fetched" / "repository" / "manifest.json").is_file()


def test_runtime(place: Place) -> None:
    (block,) = run_by("runtime")
    settings, command = [], shlex.split(place.here(block.text))
    while "=" in command[0]:
        settings.append(command.pop(0).split("=", maxsplit=1))
    process = subprocess.Popen(command, cwd=place.folder, env={**place.environment, **dict(settings)})
    url = f"http://127.0.0.1:{place.ports['8020']}/v2/models/mini/ready"
    try:
        assert eventually(lambda: readiness.is_ready(url), within_s=120.0)
    finally:
        process.terminate()
        process.wait()
