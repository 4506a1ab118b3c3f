"""``make run`` as a user meets it: everything starts, a part that dies comes back, Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from aquatint import readiness
from tests.conftest import ROOT
from tests.e2e.conftest import eventually
from tests.e2e.processes import BIN
from tests.seaweed import free_ports

pytestmark = pytest.mark.e2e

PARTS = (
    "AQUATINT_HTTP_PORT",
    "AQUATINT_GRPC_PORT",
    "AQUATINT_METRICS_PORT",
    "MCP_PORT",
    "CHAT_PORT",
    "AQUATINT_LLM_PORT",
)


@pytest.fixture
def ports() -> dict[str, str]:
    return dict(zip(PARTS, map(str, free_ports(len(PARTS)))))


@pytest.fixture
def supervisor(mini_repository: Path, ports: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    assert mini_repository == ROOT / "build" / "repository"
    (ROOT / "build" / "logs").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        **ports,
        "PROMPT": "a flat emoji of a fox on a blue background",
        "TORCH": "torch",
        "TORCH_INDEX": "",
        "IMAGE_OUTPUT_PATH": str(tmp_path),
        "AQUATINT_CHAT_DATABASE_URL": f"sqlite:///{tmp_path / 'chat.db'}",
    }
    command: list[str | Path] = [
        BIN / "supervisord",
        "-c",
        "supervisord.conf",
        "-j",
        tmp_path / "pid",
        "-l",
        tmp_path / "log",
    ]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_run(supervisor: subprocess.Popen[bytes], ports: dict[str, str], tmp_path: Path) -> None:
    page, mcp = f"http://127.0.0.1:{ports['CHAT_PORT']}", f"http://127.0.0.1:{ports['MCP_PORT']}"

    def said(words: str) -> bool:
        return words in (tmp_path / "out").read_text()

    assert eventually(lambda: said(f"open {page}"), within_s=120.0)
    # The page is there before the language model, and draws without it.
    assert httpx.get(page).status_code == 200
    assert eventually(lambda: said("picture: "), within_s=30.0)
    assert eventually(lambda: said("llm is ready"), within_s=300.0)
    assert httpx.get(f"{page}/health/ready").json() == {"database": "ok", "drawing": "ok", "llm": "ok"}

    children = psutil.Process(supervisor.pid).children(recursive=True)
    (killed,) = [child for child in children if "aquatint-mcp" in " ".join(child.cmdline())]
    killed.kill()
    assert eventually(lambda: not readiness.is_ready(f"{mcp}/health/ready"))
    assert eventually(lambda: readiness.is_ready(f"{mcp}/health/ready"), within_s=60.0)

    children = psutil.Process(supervisor.pid).children(recursive=True)
    assert len(children) >= 12
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(timeout=60) == 0
    assert eventually(lambda: not any(child.is_running() for child in children))
