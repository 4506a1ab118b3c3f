"""Our web servers as users run them: processes of their own on free ports of loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

import psutil

from aquatint.client import readiness
from tests.e2e.conftest import eventually
from tests.seaweed import free_ports

BIN = Path(sys.executable).parent


class WebServer:
    """``program`` on a free port, ready once it says so."""

    def __init__(self, program: str, environment: dict[str, str], log: IO[bytes] | None = None) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {**environment, "PORT": str(port)}
        self._program = program
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until ready."""
        command = [BIN / self._program]
        self._process = subprocess.Popen(command, env=self.environment, stdout=self._log, stderr=self._log)
        assert eventually(lambda: readiness.is_ready(f"{self.url}/health/ready"), within_s=60.0)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it with a signal."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=30)


def mcp_environment(grpc_url: str, folder: Path, **more: str) -> dict[str, str]:
    """Build the environment for ``aquatint-mcp``; ``PATH`` begins with the virtual environment's Python and Node."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "AQUATINT_URL": grpc_url,
        "IMAGE_OUTPUT_PATH": str(folder),
        **more,
    }


def chat_environment(mcp_url: str, llm_url: str, folder: Path) -> dict[str, str]:
    """Build the environment for ``aquatint-chat``."""
    return {
        **os.environ,
        "AQUATINT_CHAT_MCP_URL": f"{mcp_url}/mcp",
        "AQUATINT_CHAT_LLM_URL": f"{llm_url}/v1",
        "AQUATINT_CHAT_DATABASE_URL": f"sqlite:///{folder / 'chat.db'}",
        "AQUATINT_RATE_LIMIT": "1000/minute",
    }


class Run:
    """``aquatint run``, with what it printed."""

    def __init__(self, home: Path, ports: dict[str, str], program: Path, *options: str) -> None:
        self.page = f"http://127.0.0.1:{ports['CHAT_PORT']}"
        self.mcp = f"http://127.0.0.1:{ports['MCP_PORT']}"
        self._out = home.with_suffix(".out")
        with self._out.open("wb") as out:
            command = [str(program), "run", "--home", str(home), *options]
            self.process = subprocess.Popen(command, env={**os.environ, **ports}, stdout=out, stderr=out)

    def printed(self) -> str:
        """Return everything printed so far."""
        return self._out.read_text()

    def said(self, words: str) -> bool:
        """Return whether it printed ``words``, or ended."""
        return words in self.printed() or self.process.poll() is not None

    def children(self) -> list[psutil.Process]:
        """Return every process below it."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def running(home: Path, ports: dict[str, str], *options: str, program: Path = BIN / "aquatint") -> Iterator[Run]:
    """Start ``aquatint run``; at the end it is killed outright, which its programs must not outlive."""
    started = Run(home, ports, program, *options)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
