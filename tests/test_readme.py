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

from aquatint import readiness
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from tests.conftest import ROOT
from tests.e2e.conftest import eventually

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


@pytest.mark.e2e
@pytest.mark.slow
def test_commands_run(mini_repository: Path) -> None:
    """Every client command and the Python example, as printed, against a server on the default ports."""
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    wanted = [line for line in commands if re.match(r"\.venv/bin/aquatint (generate|models|doctor)|curl", line)]
    assert len(wanted) >= 5
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with TritonServer(mini_repository, ServerSettings()), contextlib.ExitStack() as stack:
        for program, port in (("aquatint-mcp", 8080), ("aquatint-chat", 8090)):
            service = Path(sys.executable).parent / program
            process = subprocess.Popen([service], cwd=ROOT, env={**environment, "PORT": str(port)})
            stack.callback(process.wait)
            stack.callback(process.terminate)
            url = f"http://127.0.0.1:{port}/health/ready"
            assert eventually(functools.partial(readiness.is_ready, url), within_s=60.0)
        for line in wanted:
            command = shlex.split(line.replace(".venv/bin/", ""))
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        for example in blocks("python"):
            subprocess.run([sys.executable, "-c", example], cwd=ROOT, env=environment, check=True)
    for picture in ("lemon", "fox"):
        assert (ROOT / "build" / f"{picture}.png").is_file()


@pytest.mark.e2e
@pytest.mark.slow
def test_export_commands_run(mini_repository: Path) -> None:
    """All but the one that needs the hub."""
    lines = [line for block in blocks("bash") for line in block.splitlines() if " export " in line]
    wanted = [line for line in lines if "stabilityai/" not in line]
    assert len(wanted) == 3
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in wanted:
        command = shlex.split(line.replace(".venv/bin/", ""))
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (ROOT / command[command.index("--out") + 1] / "manifest.json").is_file()


@pytest.mark.e2e
@pytest.mark.slow
def test_serve_takes_a_checkpoint(tmp_path: Path) -> None:
    (line,) = [line for block in blocks("bash") for line in block.splitlines() if " serve " in line]
    picture = tmp_path / "picture.png"
    more = ["--http-port=0", "--grpc-port=0", "--metrics-port=0", "--once", "--draw=a fox", f"--out={picture}"]
    command = [*shlex.split(line), f"--cache={tmp_path}", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stderr.split())
    assert "not served by tensorrt: there is no NVIDIA GPU to run TensorRT engines" in words
    assert "served by onnx: exported to ONNX and past the parity gate" in words
    assert picture.is_file()


@pytest.mark.e2e
@pytest.mark.slow
def test_runtime_command_runs() -> None:
    (line,) = [line for block in blocks("bash") for line in block.splitlines() if "aquatint-runtime" in line]
    settings, command = [], shlex.split(line)
    while "=" in command[0]:
        settings.append(command.pop(0).split("=", maxsplit=1))
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **dict(settings)})
    try:
        assert eventually(lambda: readiness.is_ready("http://127.0.0.1:8020/v2/models/mini/ready"), within_s=120.0)
    finally:
        process.terminate()
        process.wait()
