"""The dashboard's and the alerts' queries, by a real Prometheus that scrapes the real servers."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from aquatint.client import connect
from aquatint.contract.errors import InvalidRequest
from aquatint.contract.request import GenerationRequest
from tests.deploy.manifests import DEPLOY
from tests.e2e.collector import Collector
from tests.e2e.conftest import eventually
from tests.e2e.processes import WebServer, chat_environment, mcp_environment
from tests.e2e.prometheus import Prometheus
from tests.e2e.test_chat import answer
from tests.e2e.test_deploy import running_triton
from tests.programs import program

pytestmark = pytest.mark.e2e

MONITORING = DEPLOY / "components" / "monitoring"
NEEDS_GPU = ("nv_gpu_", "nv_energy_")


def expressions() -> list[str]:
    """List every query of the dashboard, as Grafana would fill it in, and those that KEDA scales by."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    raw = [target["expr"] for panel in panels for target in panel["targets"]]
    scaled = yaml.safe_load((DEPLOY / "components" / "keda" / "scaledobject.yaml").read_text())["spec"]
    raw += [trigger["metadata"]["query"] for trigger in scaled["triggers"]]
    return [each.replace("$__rate_interval", "1m").replace("$model", ".*") for each in raw]


@pytest.mark.slow
def test_queries(mini_repository: Path, llm_url: str, tmp_path: Path) -> None:
    """After some images, some talk and a failure, every panel that needs no GPU shows numbers."""
    with contextlib.ExitStack() as stack:
        triton = stack.enter_context(running_triton(mini_repository, tmp_path / "triton"))
        mcp = stack.enter_context(WebServer("aquatint-mcp", mcp_environment(triton.url, tmp_path)))
        chat = stack.enter_context(WebServer("aquatint-chat", chat_environment(mcp.url, llm_url, tmp_path)))
        targets = {"triton": triton.metrics_url, "mcp": mcp.url, "chat": chat.url}
        prometheus = stack.enter_context(Prometheus(tmp_path, targets))
        client = stack.enter_context(connect(url=triton.url, model="mini"))
        http = stack.enter_context(httpx.Client(base_url=chat.url, timeout=60))

        def use() -> None:
            client.generate(GenerationRequest(prompt="a fox", num_inference_steps=4))
            with pytest.raises(InvalidRequest):
                client.generate(GenerationRequest(prompt="a fox", width=4096))
            answer(http, "/imagine a fox", image={"num_inference_steps": 4})
            answer(http, "hello")

        def empty() -> list[str]:
            use()
            found = {each: prometheus.query(each) for each in expressions()}
            return [
                each
                for each, series in found.items()
                if not any(math.isfinite(float(one["value"][1])) for one in series)
                and not any(name in each for name in NEEDS_GPU)
            ]

        assert eventually(lambda: empty() == [], within_s=60.0), empty()
        # The gauge that replicas are scaled by goes back down.
        assert eventually(lambda: prometheus.query("sum(aquatint_requests_in_flight)")[0]["value"][1] == "0")


def test_alerts(tmp_path: Path) -> None:
    """Prometheus's own tool accepts the rules."""
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups))
    done = subprocess.run(
        [program("promtool"), "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(groups['groups'][0]['rules'])} rules found" in done.stdout


def test_one_trace(mini_repository: Path, tmp_path: Path) -> None:
    """With OpenTelemetry's variables set, chat, MCP server and Triton add their spans to one trace."""
    with Collector() as collector, contextlib.ExitStack() as stack:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        options = ("url=" + collector.url + "/v1/traces", "resource=service.name=triton", "bsp_schedule_delay=100")
        own = [f"--trace-config=opentelemetry,{option}" for option in options]
        own += [f"--trace-config={option}" for option in ("mode=opentelemetry", "rate=1", "level=TIMESTAMPS")]
        triton = stack.enter_context(running_triton(mini_repository, tmp_path / "triton", *own))
        mcp = stack.enter_context(WebServer("aquatint-mcp", {**mcp_environment(triton.url, tmp_path), **traced}))
        settings = {**chat_environment(mcp.url, "http://127.0.0.1:9", tmp_path), **traced}
        chat = stack.enter_context(WebServer("aquatint-chat", settings))
        client = stack.enter_context(httpx.Client(base_url=chat.url, timeout=60))

        def whole() -> set[bytes]:
            answer(client, "/imagine a fox", image={"num_inference_steps": 2})
            named = ("POST /api/v1/chat/completions", "MCP send tools/call generate_image", "mini_stream")
            return set.intersection(*map(collector.traces_of, named))

        # Triton 2.51 now and then overlooks the trace of a stream and begins its own.
        assert eventually(lambda: bool(whole()), within_s=30.0)
    assert collector.services_of("tools/call generate_image") == {"aquatint-chat", "aquatint-mcp"}
    assert collector.services_of("mini_stream") == {"triton"}
