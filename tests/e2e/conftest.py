"""One real tritonserver for the whole run, on free ports of loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aquatint.client import Client, connect, readiness
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from tests.conftest import ROOT
from tests.seaweed import free_ports

# Patient: two files of tests run at a time, and a first import of torch can take minutes on a busy machine.
FREE_PORTS = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, ready_timeout_s=300.0)


def eventually(condition: Callable[[], bool], within_s: float = 20.0) -> bool:
    """Wait for ``condition``; return whether it became true in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


class Metrics:
    """Reads the server's Prometheus page."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, name: str, **labels: str) -> float:
        """Sum all samples of ``name`` that carry ``labels``."""
        with urllib.request.urlopen(self._url) as page:
            lines = page.read().decode().splitlines()
        samples = [re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line) for line in lines]
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(float(s[2]) for s in samples if s and all(label in s[1] for label in wanted))


@pytest.fixture(scope="session")
def server(mini_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(mini_repository, FREE_PORTS) as running:
        yield running


@pytest.fixture
def ports() -> dict[str, str]:
    """Choose free ports for everything that ``aquatint run`` starts, by variable."""
    variables = ["AQUATINT_HTTP_PORT", "AQUATINT_GRPC_PORT", "AQUATINT_METRICS_PORT"]
    variables += ["MCP_PORT", "CHAT_PORT", "AQUATINT_LLM_PORT"]
    return dict(zip(variables, map(str, free_ports(len(variables)))))


@pytest.fixture
def metrics(server: TritonServer) -> Metrics:
    return Metrics(server.metrics_url)


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, server: TritonServer) -> Iterator[Client]:
    url = server.grpc_url if request.param == "grpc" else server.http_url
    with connect(url=url, protocol=request.param, timeout_s=60.0) as connected:
        yield connected


@pytest.fixture
def grpc_client(server: TritonServer) -> Iterator[Client]:
    with connect(url=server.grpc_url, protocol="grpc", timeout_s=60.0) as connected:
        yield connected


@pytest.fixture(scope="session")
def llm_url() -> Iterator[str]:
    """Serve the embedded language model on a real vLLM; loading it takes a minute or two."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "AQUATINT_LLM_PORT": str(port)}
    process = subprocess.Popen([Path(sys.executable).parent / "aquatint", "llm", "serve"], cwd=ROOT, env=environment)
    try:
        assert eventually(lambda: readiness.is_ready(f"{url}/health") or process.poll() is not None, within_s=300.0)
        assert process.poll() is None
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)
