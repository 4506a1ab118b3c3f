"""The README's commands run, and its links lead somewhere."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aquatint.client import readiness
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from tests.conftest import ROOT
from tests.e2e.conftest import eventually
from tests.e2e.processes import BIN
from tests.seaweed import free_ports

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_links_and_pictures_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", "\n".join(blocks("bash")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


class Place:
    """A folder in which the README's commands find what they name, on ports that nothing else has."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        (folder / "build").mkdir()
        (folder / "build" / "repository").symlink_to(repository)
        (folder / "pipelines").symlink_to(ROOT / "pipelines")
        printed = ("8000", "8001", "8002", "8080", "8090", "8020", "8021")
        self.ports = dict(zip(printed, map(str, free_ports(len(printed)))))
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "AQUATINT_URL": f"127.0.0.1:{self.ports['8001']}",
        }

    def here(self, text: str) -> str:
        """``text`` with the ports of this place, and programs by the PATH."""
        ports = re.compile(rf"(?<=[: ])({'|'.join(self.ports)})\b")
        return ports.sub(lambda found: self.ports[found[1]], text).replace(".venv/bin/", "")

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a command as printed; fails with what it said."""
        done = subprocess.run(
            shlex.split(self.here(line)),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done

    def server(self) -> ServerSettings:
        """Triton's settings with this place's ports."""
        http, grpc, metrics = (int(self.ports[printed]) for printed in ("8000", "8001", "8002"))
        return ServerSettings(http_port=http, grpc_port=grpc, metrics_port=metrics)


@pytest.fixture
def place(tmp_path: Path, mini_repository: Path) -> Place:
    return Place(tmp_path, mini_repository)


def lines() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines()]


@pytest.mark.e2e
@pytest.mark.slow
def test_commands_run(mini_repository: Path, place: Place) -> None:
    """Every client command and the Python examples, as printed but for the ports."""
    wanted = [line for line in lines() if re.match(r"\.venv/bin/aquatint (generate|models|doctor)|curl", line)]
    assert len(wanted) >= 5
    with TritonServer(mini_repository, place.server()), contextlib.ExitStack() as stack:
        for program, port in (("aquatint-mcp", place.ports["8080"]), ("aquatint-chat", place.ports["8090"])):
            own = {"PORT": port, "AQUATINT_CHAT_MCP_URL": f"http://127.0.0.1:{place.ports['8080']}/mcp"}
            process = subprocess.Popen([BIN / program], cwd=place.folder, env={**place.environment, **own})
            stack.callback(process.wait)
            stack.callback(process.terminate)
            url = f"http://127.0.0.1:{port}/health/ready"
            assert eventually(functools.partial(readiness.is_ready, url), within_s=60.0)
        for line in wanted:
            place.run(line)
        for example in blocks("python"):
            command = [sys.executable, "-c", place.here(example)]
            subprocess.run(command, cwd=place.folder, env=place.environment, check=True)
    for picture in ("lemon", "fox", "penguin", "rocket"):
        assert (place.folder / "build" / f"{picture}.png").is_file()


@pytest.mark.e2e
@pytest.mark.slow
def test_export_commands_run(place: Place) -> None:
    """All but the one that needs the hub."""
    wanted = [line for line in lines() if " export " in line and "stabilityai/" not in line]
    assert len(wanted) == 3
    for line in wanted:
        place.run(line)
        command = shlex.split(line)
        assert (place.folder / command[command.index("--out") + 1] / "manifest.json").is_file()


@pytest.mark.e2e
@pytest.mark.slow
def test_serve_takes_a_checkpoint(place: Place) -> None:
    (line,) = [line for line in lines() if " serve " in line and "llm" not in line]
    more = "--http-port=0 --grpc-port=0 --metrics-port=0 --once --draw='a fox' --out=picture.png"
    words = " ".join(place.run(f"{line} {more}").stderr.split())
    assert "not served by tensorrt: there is no NVIDIA GPU to run TensorRT engines" in words
    assert "served by onnx: exported to ONNX and past the parity gate" in words
    assert (place.folder / "picture.png").is_file()


@pytest.mark.e2e
@pytest.mark.slow
def test_runtime_command_runs(place: Place) -> None:
    (line,) = [line for line in lines() if "aquatint-runtime" in line]
    settings, command = [], shlex.split(place.here(line))
    while "=" in command[0]:
        settings.append(command.pop(0).split("=", maxsplit=1))
    process = subprocess.Popen(command, cwd=place.folder, env={**place.environment, **dict(settings)})
    url = f"http://127.0.0.1:{place.ports['8020']}/v2/models/mini/ready"
    try:
        assert eventually(lambda: readiness.is_ready(url), within_s=120.0)
    finally:
        process.terminate()
        process.wait()
