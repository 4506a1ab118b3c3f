"""Waiting for servers to become ready."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from aquatint.client import readiness
from aquatint.contract.errors import EngineUnavailable


class _Slow(BaseHTTPRequestHandler):
    """Not ready when first asked."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(503 if type(self).asked < 2 else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_wait_until_ready() -> None:
    with HTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        readiness.wait_until_ready(f"http://127.0.0.1:{server.server_port}/", within_s=10.0)
        server.shutdown()
    assert _Slow.asked == 2


def test_nobody_there() -> None:
    assert not readiness.is_ready("http://127.0.0.1:9/")
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:9/ is not ready after 0 s"):
        readiness.wait_until_ready("http://127.0.0.1:9/", within_s=0.0)
