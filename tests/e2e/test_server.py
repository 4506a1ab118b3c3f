"""The embedded server: start, refuse, repair, stop without traces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from aquatint.client import connect
from aquatint.contract import errors
from aquatint.contract.image import read_parameters
from aquatint.contract.request import GenerationRequest
from aquatint.server import TritonServer
from tests.e2e.conftest import FREE_PORTS, eventually

pytestmark = pytest.mark.e2e

FOX = GenerationRequest(prompt="a fox", seed=1, num_inference_steps=2)
LONG = GenerationRequest(prompt="a fox", seed=1, num_inference_steps=150, num_images=4)


def generates(server: TritonServer) -> bool:
    """Return whether the server generates right now."""
    with connect(url=server.grpc_url, protocol="grpc", retries=0) as client:
        try:
            client.generate(FOX, timeout_s=5.0)
        except errors.AquatintError:
            return False
        return True


def test_nothing_is_left_behind(mini_repository: Path) -> None:
    server = TritonServer(mini_repository, FREE_PORTS)
    server.start()
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    prefix = server._memory_prefix
    assert len(family) == 8
    assert any(name.startswith(prefix) for name in os.listdir("/dev/shm"))
    server.stop()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert not any(name.startswith(prefix) for name in os.listdir("/dev/shm"))
    server.stop()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_generates_and_stops(mini_repository: Path, tmp_path: Path, ending: signal.Signals) -> None:
    out = tmp_path / "fox.png"
    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    command = [sys.executable, "-m", "aquatint.cli.app", "serve", str(mini_repository), *ports]
    command += ["--draw", "a fox", "--out", str(out), "--log", str(tmp_path / "triton.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        assert "ready" in serving.stdout.readline()
        assert f"image: {out}" in serving.stdout.readline()
        children = psutil.Process(serving.pid).children(recursive=True)
        serving.send_signal(ending)
        assert serving.wait(30) == 0
    assert read_parameters(out.read_bytes())["prompt"] == "a fox"
    assert eventually(lambda: not any(child.is_running() for child in children))
    assert "Started GRPCInferenceService" in (tmp_path / "triton.log").read_text()


def test_killing_the_command_ends_the_server(mini_repository: Path) -> None:
    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    command = [sys.executable, "-m", "aquatint.cli.app", "serve", str(mini_repository), *ports, "--log", "/dev/null"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        assert "ready" in serving.stdout.readline()
        children = psutil.Process(serving.pid).children(recursive=True)
        serving.kill()
    assert eventually(lambda: not any(child.is_running() for child in children))


def test_a_changed_file_is_refused(mini_repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(mini_repository, copy)
    with (copy / "mini_vae_decoder" / "1" / "model.onnx").open("ab") as file:
        file.write(b"!")
    with pytest.raises(errors.ModelRejected, match=r"mini_vae_decoder/1/model.onnx was changed"):
        TritonServer(copy, FREE_PORTS).start()


def test_a_broken_model_is_named_and_nothing_stays_running(
    mini_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(mini_repository, copy)
    (copy / "mini_denoiser" / "1" / "model.onnx").write_bytes(b"not a model")
    # Inherited by all that the server starts; other tests start servers at the same time.
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    with pytest.raises(errors.EngineUnavailable, match="mini_denoiser"):
        TritonServer(copy, FREE_PORTS, verify=False).start()
    everyone = psutil.process_iter(["environ", "name"])
    assert not [each for each in everyone if (each.info["environ"] or {}).get("STARTED_BY") == str(tmp_path)]


def test_a_taken_port_is_named(server: TritonServer, mini_repository: Path) -> None:
    taken = FREE_PORTS.model_copy(update={"grpc_port": server.settings.grpc_port})
    with pytest.raises(errors.EngineUnavailable, match="did not start"):
        TritonServer(mini_repository, taken).start()


@pytest.mark.parametrize(
    "path",
    ["repository/models/mini/unload", "repository/index", "systemsharedmemory/status", "logging", "trace/setting"],
)
def test_strangers_cannot_administer(server: TritonServer, path: str) -> None:
    method = "POST" if path.startswith("repository") else "GET"
    assert httpx.request(method, f"http://{server.http_url}/v2/{path}").status_code == 403


@pytest.mark.parametrize("victim", ["mini", "mini_denoiser"])
def test_a_killed_backend_process_is_an_error_and_is_repaired(mini_repository: Path, victim: str) -> None:
    outcome: list[BaseException | None] = []

    def generate(url: str) -> None:
        with connect(url=url, protocol="grpc", retries=0) as client:
            try:
                client.generate(LONG, timeout_s=8.0)
                outcome.append(None)
            except errors.AquatintError as error:
                outcome.append(error)

    with TritonServer(mini_repository, FREE_PORTS) as server:
        generating = threading.Thread(target=generate, args=(server.grpc_url,))
        generating.start()
        with connect(url=server.grpc_url, protocol="grpc", retries=0) as client:
            client.generate(FOX)
            started = time.monotonic()
            os.kill(server._backend_processes()[victim], signal.SIGKILL)
            generating.join(timeout=12.0)
            assert not generating.is_alive()
            assert time.monotonic() - started < 10.0
            assert isinstance(outcome[0], (errors.EngineUnavailable, errors.DeadlineExceeded, errors.Internal))
            with pytest.raises(errors.AquatintError):
                client.generate(FOX, timeout_s=5.0)
            # Only the victim, unless Triton itself went down with it and all models were started again.
            assert victim in server.repair()
            assert eventually(lambda: generates(server))


def test_a_dead_server_is_started_again(mini_repository: Path) -> None:
    with TritonServer(mini_repository, FREE_PORTS) as server:
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: not server.is_running())
        assert set(server.repair()) == {path.parent.name for path in mini_repository.glob("*/config.pbtxt")}
        assert generates(server)


def test_the_watcher_repairs_by_itself(mini_repository: Path) -> None:
    settings = FREE_PORTS.model_copy(update={"probe_every_s": 0.2})
    with TritonServer(mini_repository, settings) as server:
        stopping = threading.Event()

        def probe() -> None:
            with connect(url=server.grpc_url, protocol="grpc", retries=0) as client:
                client.generate(FOX, timeout_s=5.0)

        watcher = threading.Thread(target=server.watch, args=(probe, stopping))
        watcher.start()
        try:
            first = server._backend_processes()["mini_vae_decoder"]
            os.kill(first, signal.SIGKILL)
            assert eventually(lambda: server._backend_processes().get("mini_vae_decoder", first) != first, 30.0)
            assert eventually(lambda: generates(server))
        finally:
            stopping.set()
            watcher.join()
