"""The built wheels in environments that know nothing of the repository: clients, missing extras, everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch

from aquatint import __version__
from aquatint.client import Client
from aquatint.server import TritonServer
from tests.conftest import ROOT
from tests.e2e.conftest import eventually
from tests.e2e.processes import running
from tests.e2e.test_text_to_image import FOX

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BIN = Path(sys.executable).parent
# What no client may import.
HEAVY = ["torch", "transformers", "diffusers", "onnxruntime", "tokenizers", "fastapi", "kserve", "psutil", "supervisor"]
MAIN = ROOT / "deploy" / "locks" / "main.txt"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both wheels from a clean clone."""
    folder = tmp_path_factory.mktemp("wheels")
    clone, dist = folder / "clone", folder / "dist"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", ROOT.as_uri(), clone], check=True)
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    for source in (clone, clone / "pipelines" / "models"):
        command = [str(BIN / "python"), "-m", "build", "--installer=uv", "--quiet", f"--outdir={dist}", str(source)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return dist


Install = Callable[..., Path]


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Install:
    """Make an environment with the package and ``extra``; return its ``bin``."""

    def installed(extra: str, *options: str | Path) -> Path:
        home = tmp_path_factory.mktemp("environment")
        subprocess.run([BIN / "uv", "venv", "--quiet", "--python", sys.executable, home], check=True)
        if extra:
            # By pip, whose configuration chooses the build, as in the set-up.
            pip = [str(BIN / "pip"), "--python", str(home / "bin" / "python"), "install", "--quiet", "--no-deps"]
            subprocess.run([*pip, f"torch=={torch.__version__.partition('+')[0]}"], check=True)
        (wheel,) = wheels.glob(f"aquatint-{__version__}-*.whl")
        command = [BIN / "uv", "pip", "install", "--quiet", "--python", home / "bin" / "python", *options]
        subprocess.run([*command, f"{wheel}{extra}"], check=True)
        return home / "bin"

    return installed


def spoken(*command: str | Path) -> tuple[int, str]:
    """Return the status and output of a command, run where there is no repository."""
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_page_and_the_locks_are_inside(wheels: Path) -> None:
    (wheel,) = wheels.glob("aquatint-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "aquatint_chat/web/index.html" in names
    assert any(re.fullmatch(r"aquatint_chat/web/assets/index-.*\.js", name) for name in names)
    assert "aquatint_llm/requirements.txt" in names
    assert not [name for name in names if "node_modules" in name or name.startswith("tests")]
    assert wheel.stat().st_size < 5_000_000


def test_a_client_needs_little(install: Install, grpc_client: Client, server: TritonServer, tmp_path: Path) -> None:
    """No extra, numpy 2: it generates the same bytes, imports nothing heavy and says what it lacks in one line."""
    bin_ = install("", "numpy>=2")
    assert spoken(bin_ / "aquatint", "--version") == (0, f"aquatint {__version__}")
    url = server.grpc_url
    status, words = spoken(
        bin_ / "aquatint", "generate", FOX.prompt, "--seed", str(FOX.seed), "--url", url, "--out", tmp_path / "fox.png"
    )
    assert status == 0, words
    assert (tmp_path / "fox.png").read_bytes() == grpc_client.generate(FOX).images[0].png
    code = f"import sys, numpy, aquatint.cli.app; print(numpy.__version__[0], [m for m in {HEAVY} if m in sys.modules])"
    assert spoken(bin_ / "python", "-c", code) == (0, "2 []")
    missing = {
        ("aquatint", "run"): "run",
        ("aquatint", "serve", "x"): "triton",
        ("aquatint", "export", "x", "--out", "y"): "export",
        ("aquatint", "bench"): "bench",
        ("aquatint", "registry", "list", "mini"): "triton",
        ("aquatint-mcp",): "mcp",
        ("aquatint-chat",): "chatbot",
        ("aquatint-runtime",): "serving",
        ("aquatint-pipelines", "run", "x"): "pipelines",
    }
    for (program, *arguments), extra in missing.items():
        status, words = spoken(bin_ / program, *arguments)
        assert status == 1, program
        line = rf"aquatint\S*( \w+)* needs more packages \(\w+ is missing\): pip install 'aquatint\[{extra}\]'"
        assert re.fullmatch(line, words), words
    status, words = spoken(bin_ / "aquatint", "doctor")
    assert status == 1
    assert "'aquatint[triton]'" in words
    assert "Traceback" not in words


def test_everything_runs_from_the_wheel(
    install: Install, wheels: Path, grpc_client: Client, ports: dict[str, str], tmp_path: Path
) -> None:
    """``aquatint run`` in an empty environment: exports, serves the page, and generates the repository's bytes."""
    (mini,) = wheels.glob("aquatint_mini-*.whl")
    bin_ = install("[run]", "--constraints", MAIN, mini)
    with running(tmp_path / "home", ports, "--no-llm", program=bin_ / "aquatint") as run:
        assert eventually(lambda: run.said("Aquatint is running"), within_s=480.0), run.printed()
        assert "Traceback" not in run.printed()
        assert "✓ model repository" in run.printed()
        assert "<script" in httpx.get(run.page).text
        url = f"127.0.0.1:{ports['AQUATINT_GRPC_PORT']}"
        fox = [FOX.prompt, "--seed", str(FOX.seed), "--url", url, "--out", str(tmp_path / "fox.png")]
        assert spoken(bin_ / "aquatint", "generate", *fox)[0] == 0
        assert (tmp_path / "fox.png").read_bytes() == grpc_client.generate(FOX).images[0].png
        body = {"prompt": FOX.prompt, "seed": FOX.seed, "response_format": "b64_json"}
        assert httpx.post(f"{run.mcp}/v1/images/generations", json=body, timeout=60).is_success
