"""``aquatint run`` as a user meets it: everything starts, a part that dies comes back, Ctrl-C leaves nothing behind."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

import httpx
import pytest

from aquatint.client import readiness
from aquatint.contract.image import read_parameters
from tests.conftest import CHECKPOINT
from tests.e2e.conftest import eventually
from tests.e2e.processes import running

pytestmark = pytest.mark.e2e


@pytest.fixture
def home(tmp_path: Path, mini_repository: Path) -> Path:
    """Make a home with the model repository in it, as after a first run."""
    shutil.copytree(mini_repository, tmp_path / "home" / "repository")
    return tmp_path / "home"


def test_run(home: Path, ports: dict[str, str]) -> None:
    with running(home, ports, "--no-llm") as run:
        assert eventually(lambda: run.said("Aquatint is running"), within_s=240.0)
        assert run.page in run.printed()
        assert "Traceback" not in run.printed()
        # What is there is served, not exported again.
        assert "model repository" not in run.printed()
        assert read_parameters((home / "picture.png").read_bytes())["prompt"].startswith("a flat emoji of a fox")
        assert httpx.get(run.page).status_code == 200
        assert httpx.get(f"{run.page}/health/ready").json()["drawing"] == "ok"

        (killed,) = [child for child in run.children() if "aquatint-mcp" in " ".join(child.cmdline())]
        killed.kill()
        assert eventually(lambda: not readiness.is_ready(f"{run.mcp}/health/ready"))
        assert eventually(lambda: readiness.is_ready(f"{run.mcp}/health/ready"), within_s=60.0)

        children = run.children()
        assert len(children) >= 9
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(timeout=60) == 0
        assert eventually(lambda: not any(child.is_running() for child in children))
    assert {path.name for path in home.iterdir()} >= {"logs", "picture.png", "chat.db", "admin-key"}


def test_killed_outright_it_takes_its_programs_along(home: Path, ports: dict[str, str]) -> None:
    with running(home, ports, "--no-llm") as run:
        assert eventually(lambda: run.said("first image"), within_s=240.0)
        children = run.children()
    assert children
    assert eventually(lambda: not any(child.is_running() for child in children), within_s=60.0)


def test_a_taken_port_is_named_before_anything_starts(home: Path, ports: dict[str, str]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", int(ports["CHAT_PORT"])))
        sock.listen()
        with running(home, ports, "--no-llm") as run:
            assert run.process.wait(timeout=60) == 1
    words = " ".join(run.printed().split())
    assert f"port {ports['CHAT_PORT']}, for the chat page, is taken: set CHAT_PORT" in words
    assert not (home / "logs").exists()


def test_a_program_that_does_not_start_is_quoted(home: Path, ports: dict[str, str]) -> None:
    (home / "repository" / "manifest.json").write_text("{}")
    with running(home, ports, "--no-llm") as run:
        assert run.process.wait(timeout=120) == 1
    assert "triton does not start" in run.printed()
    assert "ModelRejected" in run.printed()


@pytest.mark.slow
def test_from_nothing_with_a_language_model(tmp_path: Path, ports: dict[str, str]) -> None:
    home = tmp_path / "home"
    with running(home, ports, "--checkpoint", str(CHECKPOINT)) as run:
        assert eventually(lambda: run.said("Aquatint is running"), within_s=480.0)
        assert "✓ model repository" in run.printed()
        assert eventually(lambda: run.said("✓ language model"), within_s=480.0)
        assert httpx.get(f"{run.page}/health/ready").json() == {"database": "ok", "drawing": "ok", "llm": "ok"}
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(timeout=90) == 0
