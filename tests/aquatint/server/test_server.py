"""How the embedded server is supervised, without starting one; ``e2e`` starts it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from aquatint.server import TritonServer
from aquatint.settings import ServerSettings


def test_a_child_that_is_still_the_server_is_no_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between fork and exec a backend process has tritonserver's own command line."""

    def child(pid: int, *command: str) -> SimpleNamespace:
        return SimpleNamespace(pid=pid, cmdline=lambda: list(command), status=lambda: psutil.STATUS_RUNNING)

    children = [
        child(1, "/opt/tritonserver", "--model-repository=x"),
        child(2, "/tmp/backends/python/triton_python_backend_stub", "/models/mini/1/model.py"),
        child(3),
    ]
    parent = SimpleNamespace(children=lambda recursive: children)
    monkeypatch.setattr(psutil, "Process", lambda pid: parent)
    server = TritonServer(tmp_path, ServerSettings())
    monkeypatch.setattr(TritonServer, "pid", 0)
    assert server._backend_processes() == {"mini": 2}
