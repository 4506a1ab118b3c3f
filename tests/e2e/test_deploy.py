"""The ServingRuntimes' own commands, started here: they become ready, and their probes tell the truth."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aquatint.client import connect, readiness
from aquatint.server.locate import lay_out_backends, locate
from tests.conftest import ROOT
from tests.deploy.manifests import Manifest, build
from tests.e2e.conftest import eventually
from tests.e2e.processes import BIN
from tests.e2e.test_text_to_image import FOX
from tests.seaweed import ACCESS_KEY, SECRET_KEY, free_ports, seaweed

pytestmark = pytest.mark.e2e

_MEMORY = f"aquatint-deploy-{os.getpid()}-"


class Pod:
    """A runtime's container as a process on free ports; only ``/mnt/models`` and the ports are replaced."""

    def __init__(self, runtime: str, overlay: str, model: Path | str, **environment: str) -> None:
        named = [each for each in build(overlay) if each["metadata"]["name"] == runtime]
        (found,) = [each for each in named if each["kind"] == "ServingRuntime"]
        self.container: Manifest = found["spec"]["containers"][0]
        used = sorted({int(port) for port in self._ports_of(self.container["args"])})
        self._free = dict(zip(map(str, used), map(str, free_ports(len(used)))))
        declared = {each["name"]: each["value"] for each in self.container["env"] if "value" in each}
        own = {**declared, **environment, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.environment = {name: self._here(value, model) for name, value in own.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self.arguments = [self._here(argument, model) for argument in self.container["args"]]

    @staticmethod
    def _ports_of(arguments: list[str]) -> Iterator[str]:
        for argument in arguments:
            name, _, value = argument.partition("=")
            if name.endswith("port"):
                yield value

    def _here(self, text: str, model: Path | str) -> str:
        for port, free in self._free.items():
            text = text.replace(f"port={port}", f"port={free}").replace(f":{port}", f":{free}")
        return text.replace("/mnt/models", str(model))

    @property
    def url(self) -> str:
        """The address of its gRPC."""
        return self.environment["AQUATINT_URL"]

    @property
    def metrics_url(self) -> str:
        """The address of its metrics for Prometheus."""
        return f"http://127.0.0.1:{self._free['8002']}"

    def probe(self, name: str) -> bool:
        """Run a probe as the kubelet does; return whether it succeeds."""
        probe: dict[str, Any] = self.container[name]
        if "httpGet" in probe:
            return readiness.is_ready(
                f"http://127.0.0.1:{self._free[str(probe['httpGet']['port'])]}{probe['httpGet']['path']}"
            )
        command = [BIN / probe["exec"]["command"][0], *probe["exec"]["command"][1:]]
        environment = {**os.environ, **self.environment}
        timeout_s = probe["timeoutSeconds"]
        try:
            return subprocess.run(command, env=environment, check=False, timeout=timeout_s).returncode == 0
        except subprocess.TimeoutExpired:
            return False


@contextlib.contextmanager
def running_triton(repository: Path | str, scratch: Path, *more: str) -> Iterator[Pod]:
    """Start stock tritonserver with the manifest's arguments, and ``more``."""
    pod = Pod("aquatint-triton", "triton-s3", repository, AQUATINT_MODEL="mini")
    installation = locate(None)
    scratch.mkdir()
    lay_out_backends(installation, scratch)
    # The embedded server's backends and caches are in other places than the container image's.
    own = [f"--backend-directory={scratch}", f"--cache-directory={installation.cache_directory()}"]
    own += [f"--{service}-address=127.0.0.1" for service in ("http", "grpc", "metrics")]
    own += [f"--backend-config=python,shm-region-prefix-name={_MEMORY}"]
    environment = {**installation.environment(), **pod.environment}
    pod.process = subprocess.Popen([installation.binary, *pod.arguments, *own, *more], env=environment)
    try:
        assert eventually(lambda: pod.probe("readinessProbe"), within_s=60.0)
        yield pod
    finally:
        pod.process.kill()
        pod.process.wait()
        for region in Path("/dev/shm").glob(f"{_MEMORY}*"):
            region.unlink()


def test_triton(mini_repository: Path, tmp_path: Path) -> None:
    """A dead component is seen only by the liveness probe, which generates."""
    with running_triton(mini_repository, tmp_path / "triton") as pod:
        assert pod.probe("startupProbe")
        assert pod.probe("livenessProbe")
        with connect(url=pod.url, model="mini") as client:
            assert client.generate(FOX).images
        assert pod.process is not None
        stubs = psutil.Process(pod.process.pid).children(recursive=True)
        next(stub for stub in stubs if "mini_denoiser" in " ".join(stub.cmdline())).kill()
        assert not pod.probe("livenessProbe")
        assert pod.probe("readinessProbe")


def test_triton_reads_s3_itself(mini_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same repository from ``s3://``, without KServe's download: the same image."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with seaweed(tmp_path / "weed") as storage:
        client = storage.client()
        client.create_bucket(Bucket="models")
        for file in mini_repository.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                client.upload_file(str(file), "models", f"mini/1/{file.relative_to(mini_repository)}")
        address = f"s3://{storage.endpoint_url}/models/mini/1"
        with running_triton(address, tmp_path / "triton") as pod, connect(url=pod.url, model="mini") as client:
            from_s3 = client.generate(FOX).images[0].png
    with running_triton(mini_repository, tmp_path / "again") as pod, connect(url=pod.url, model="mini") as client:
        assert client.generate(FOX).images[0].png == from_s3


def test_diffusers() -> None:
    pod = Pod("aquatint-diffusers", "redhat-dog", ROOT / "pipelines" / "models" / "mini")
    command = [BIN / pod.container["command"][0], *pod.arguments]
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(command, env={**os.environ, **pod.environment})
        stack.callback(process.wait)
        stack.callback(process.terminate)
        assert eventually(lambda: pod.probe("startupProbe"), within_s=120.0)
        assert pod.probe("livenessProbe")
        assert pod.probe("readinessProbe")
