"""Waiting for servers to become ready."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from aquatint import readiness
from aquatint.errors import InvalidRequest


class _Slow(BaseHTTPRequestHandler):
    """Not ready when first asked."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(503 if type(self).asked < 2 else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_wait() -> None:
    said: list[str] = []
    with HTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        readiness.wait({"part": f"http://127.0.0.1:{server.server_port}/"}, said.append)
        server.shutdown()
    assert _Slow.asked == 2
    assert said[0].startswith("part is ready")


def test_nobody_there() -> None:
    assert not readiness.is_ready("http://127.0.0.1:9/")


@pytest.mark.parametrize("part", ["x", "=http://a", "x=ftp://a"])
def test_wrong_parts(part: str) -> None:
    with pytest.raises(InvalidRequest):
        readiness.parse_parts([part])
