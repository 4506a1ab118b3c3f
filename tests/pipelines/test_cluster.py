"""Requests to a Kubeflow Pipelines server, recorded by a stand-in: there is no cluster here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aquatint_pipelines import cluster

from aquatint.contract.errors import EngineUnavailable, InvalidRequest


class PipelineServer:
    """Answers like the API and keeps what it got; ``refusal`` is the status of every POST, if set."""

    def __init__(self) -> None:
        self.created: dict[str, Any] = {}
        self.tokens: set[str | None] = set()
        self.refusal: int | None = None
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, {})

            def do_POST(self) -> None:
                kind = self.path.partition("?")[0].rpartition("/")[2]
                owner.created[kind] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(owner.refusal or 200, {"experiment_id": "e", "run_id": "r", "recurring_run_id": "rr"})

            def _answer(self, status: int, body: dict[str, str]) -> None:
                owner.tokens.add(self.headers.get("authorization"))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *arguments: object) -> None:
                """Say nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> PipelineServer:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[PipelineServer]:
    with PipelineServer() as running:
        yield running


def test_a_run(server: PipelineServer) -> None:
    assert (
        cluster.submit("prompt-list", {"count": 3}, host=server.url, token="a-token", namespace=None, cron=None) == "r"
    )
    run = server.created["runs"]
    assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "prompt-list"
    assert run["runtime_config"]["parameters"] == {"count": 3}
    assert "Bearer a-token" in server.tokens
    assert server.created["experiments"]["display_name"] == "aquatint"


def test_a_schedule(server: PipelineServer) -> None:
    assert cluster.submit("prompt-list", {}, host=server.url, token=None, namespace="mine", cron="0 0 3 * * *") == "rr"
    recurring = server.created["recurringruns"]
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert recurring["mode"] == "ENABLE"
    assert server.created["experiments"]["namespace"] == "mine"


def test_what_is_refused(server: PipelineServer) -> None:
    with pytest.raises(InvalidRequest, match="colour"):
        cluster.submit("prompt-list", {"colour": "red"}, host=server.url, token=None, namespace=None, cron=None)
    assert server.created == {}
    for status, kind in ((400, InvalidRequest), (403, EngineUnavailable)):
        server.refusal = status
        with pytest.raises(kind, match=f"refused: {status}"):
            cluster.submit("prompt-list", {}, host=server.url, token=None, namespace=None, cron=None)
