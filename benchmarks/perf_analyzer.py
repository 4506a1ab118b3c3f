"""Install and run NVIDIA's perf_analyzer.

Its own package needs a newer C library than many machines have; the ``tritonclient`` 2.51 wheel for manylinux1 carries
a binary that runs with the libraries of the ``nvidia-pytriton`` wheel.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

INSTALLED = Path(sys.prefix) / "perf_analyzer"
_REQUIREMENT = "tritonclient==2.51.0"
# What the binary links against, under the hashed names that the wheel's build gave them.
_LIBRARIES = {"libb64.so.0d": "libb64-*", "libcudart.so.12": "libcudart-*"}


@dataclass(frozen=True)
class Measurement:
    """One line of perf_analyzer's report; latencies in seconds, throughput in requests per second."""

    concurrency: int
    throughput: float
    p50_s: float
    p99_s: float


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


def measure(
    model: str,
    url: str,
    concurrency: int,
    requests: int,
    input_data: Path,
    folder: Path = INSTALLED,
    stream: bool = False,
) -> Measurement:
    """Send exactly ``requests`` requests over gRPC, ``concurrency`` at a time. Raises with its output if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.csv"
        command = [str(folder / "perf_analyzer"), "-m", model, "-u", url, "-i", "grpc", "-f", str(report)]
        command += ["--input-data", str(input_data), "--concurrency-range", str(concurrency)]
        command += ["--request-count", str(requests), *(["--streaming", "--async"] if stream else [])]
        libraries = f"{folder}:{_wheel_libraries()}"
        done = subprocess.run(
            command, env={**os.environ, "LD_LIBRARY_PATH": libraries}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or not report.is_file():
            raise RuntimeError(f"perf_analyzer failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return _read(report)


def _read(report: Path) -> Measurement:
    with report.open() as file:
        row = next(csv.DictReader(file))
    return Measurement(
        int(row["Concurrency"]),
        float(row["Inferences/Second"]),
        float(row["p50 latency"]) / 1e6,
        float(row["p99 latency"]) / 1e6,
    )


if __name__ == "__main__":
    install(Path(sys.argv[sys.argv.index("--install") + 1]) if "--install" in sys.argv else INSTALLED)
