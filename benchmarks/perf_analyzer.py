"""Install and run NVIDIA's perf_analyzer.

Its own package needs a newer C library than many machines have; the ``tritonclient`` 2.51 wheel for manylinux1 carries
a binary that runs with the libraries of the ``nvidia-pytriton`` wheel.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

INSTALLED = Path(sys.prefix) / "perf_analyzer"
_REQUIREMENT = "tritonclient==2.51.0"
# What the binary links against, under the hashed names that the wheel's build gave them.
_LIBRARIES = {"libb64.so.0d": "libb64-*", "libcudart.so.12": "libcudart-*"}


@dataclass(frozen=True)
class Measurement:
    """Latencies in seconds, throughput in requests per second."""

    throughput: float
    p50_s: float
    p90_s: float
    p99_s: float


@dataclass(frozen=True)
class Load:
    """How requests arrive: from clients that each send their next request after the last, or randomly at a mean rate.

    ``clients`` or ``poisson_rate`` (requests per second); ``requests`` is how many in all.
    """

    requests: int
    clients: int | None = None
    poisson_rate: float | None = None

    def options(self) -> list[str]:
        """Build perf_analyzer's options."""
        if self.poisson_rate is not None:
            rate = f"{self.poisson_rate:.3f}"
            arrivals = ["--request-rate-range", rate, "--request-distribution", "poisson"]
        else:
            arrivals = ["--concurrency-range", str(self.clients)]
        return [*arrivals, "--request-count", str(self.requests)]


def install(folder: Path) -> None:
    """Fetch the wheel and unpack the binary and its libraries into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        platform = ["--only-binary=:all:", "--platform", "manylinux1_x86_64"]
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *platform, "-d", scratch, _REQUIREMENT]
        subprocess.run(download, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(_find(archive)) as source:
            binary = folder / "perf_analyzer"
            with binary.open("wb") as target:
                shutil.copyfileobj(source, target)
    binary.chmod(0o755)
    for name, pattern in _LIBRARIES.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(next(_wheel_libraries().glob(pattern)))


def _find(archive: zipfile.ZipFile) -> str:
    return next(name for name in archive.namelist() if name.endswith("/bin/perf_analyzer"))


def _wheel_libraries() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("perf_analyzer needs the libraries of nvidia-pytriton")
    return Path(spec.submodule_search_locations[0]).parent / "nvidia_pytriton.libs"


def measure(model: str, url: str, *, load: Load, input_data: Path, folder: Path = INSTALLED) -> Measurement:
    """Drive ``model`` over gRPC; as a stream if it is a decoupled model. Raises with its output if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "profile.json"
        command = [str(folder / "perf_analyzer"), "-m", model, "-u", url, "-i", "grpc"]
        command += ["--profile-export-file", str(report)]
        command += ["--input-data", str(input_data), *load.options()]
        command += ["--streaming", "--async"] if model.endswith("_stream") else []
        libraries = f"{folder}:{_wheel_libraries()}"
        done = subprocess.run(
            command, env={**os.environ, "LD_LIBRARY_PATH": libraries}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or not report.is_file():
            raise RuntimeError(f"perf_analyzer failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        (experiment,) = json.loads(report.read_text())["experiments"]
    return _read(experiment["requests"])


def _read(requests: list[dict[str, Any]]) -> Measurement:
    """Use every request's own timestamps: perf_analyzer's summary counts in windows, too coarse for few requests."""
    began = np.array([request["timestamp"] for request in requests]) / 1e9
    ended = np.array([request["response_timestamps"][-1] for request in requests]) / 1e9
    throughput = len(requests) / (ended.max() - began.min())
    return Measurement(float(throughput), *np.percentile(ended - began, (50, 90, 99)).tolist())


if __name__ == "__main__":
    install(Path(sys.argv[sys.argv.index("--install") + 1]) if "--install" in sys.argv else INSTALLED)
