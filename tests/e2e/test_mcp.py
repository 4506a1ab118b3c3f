"""The MCP server and the images API as users run them: a process of its own in front of the real Triton."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastmcp import Client as McpClient
from fastmcp.client.transports import StdioTransport
from PIL import Image

from aquatint.client import Client
from aquatint.contract.image import read_parameters
from aquatint.server import TritonServer
from tests.conftest import ROOT
from tests.e2e.conftest import Metrics, eventually
from tests.e2e.processes import BIN, WebServer, mcp_environment
from tests.e2e.test_text_to_image import FOX
from tests.previews import assert_shows, pixels

pytestmark = pytest.mark.e2e

NODE = ROOT / "tests" / "mcp_server" / "node"
CONFORMANCE = (
    "server-initialize",
    "ping",
    "logging-set-level",
    "tools-list",
    "resources-list",
    "prompts-list",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
)


@pytest.fixture(scope="module")
def mcp(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    settings = mcp_environment(server.grpc_url, tmp_path_factory.mktemp("images"), AQUATINT_RATE_LIMIT="1000/minute")
    with WebServer("aquatint-mcp", settings) as running:
        yield running


@pytest.fixture
def fox(grpc_client: Client) -> bytes:
    """Generate the image that the gRPC client gets for the same request."""
    return grpc_client.generate(FOX).images[0].png


@pytest.mark.parametrize(("version", "protocol"), [("v1", "2025-11-25"), ("v2", "2026-07-28")])
def test_typescript_clients(mcp: WebServer, metrics: Metrics, fox: bytes, version: str, protocol: str) -> None:
    """The official TypeScript SDKs generate with live progress and previews, and cancel midway."""
    cancelled = metrics("aquatint_requests_total", outcome="Cancelled")
    command: list[str | Path] = [BIN / "node", "generate.mjs", f"{mcp.url}/mcp", version, FOX.prompt, str(FOX.seed)]
    done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["protocol"] == protocol
    assert [event["progress"] for event in seen["progress"]] == list(range(1, 29))
    previews = [event["_meta"]["aquatint/preview"] for event in seen["progress"] if "_meta" in event]
    assert [preview["step"] for preview in previews] == [4, 8, 12, 16, 20, 24, 28]
    assert_shows(pixels(previews[-1]["data"]), pixels(fox))
    image = next(block for block in seen["generated"]["content"] if block["type"] == "image")
    assert base64.b64decode(image["data"]) == fox
    assert httpx.get(seen["generated"]["structuredContent"]["images"][0]["url"]).content == fox
    assert 3 <= seen["cancelledAt"] < 150
    assert "enough" in seen["outcome"]
    assert seen["refused"]["isError"]
    assert eventually(lambda: metrics("aquatint_requests_total", outcome="Cancelled") == cancelled + 1)


def test_openai_client(mcp: WebServer, metrics: Metrics, fox: bytes) -> None:
    """The official client generates, streams partial images, and stops the denoiser by closing a stream."""
    with openai.OpenAI(base_url=f"{mcp.url}/v1", api_key="none") as client:
        seed = {"seed": FOX.seed}
        answer = client.images.generate(prompt=FOX.prompt, extra_body=seed)
        assert answer.data is not None
        assert base64.b64decode(answer.data[0].b64_json or "") == fox

        *partial, completed = client.images.generate(prompt=FOX.prompt, stream=True, partial_images=3, extra_body=seed)
        assert [event.type for event in partial] == ["image_generation.partial_image"] * 3
        assert base64.b64decode(completed.b64_json) == fox
        # Partial images have the image's size; made small again they are the preview.
        last = Image.fromarray(pixels(partial[-1].b64_json)).resize((8, 8), Image.Resampling.BOX)
        assert_shows(np.asarray(last), pixels(fox))

        cancelled = metrics("aquatint_requests_total", outcome="Cancelled")
        long = {"steps": 150}
        with client.images.generate(
            prompt="x", n=4, stream=True, partial_images=3, extra_body=long, size="128x128"
        ) as events:
            assert next(iter(events)).type == "image_generation.partial_image"
        assert eventually(lambda: metrics("aquatint_requests_total", outcome="Cancelled") == cancelled + 1)

        with pytest.raises(openai.BadRequestError, match="width: must be a multiple of 16 from 16 to 128"):
            client.images.generate(prompt="x", size="1024x1024")


def test_the_seed_demos_request(mcp: WebServer, fox: bytes) -> None:
    body = {"instances": [{"prompt": FOX.prompt, "num_inference_steps": 28, "guidance_scale": 4.5, "seed": FOX.seed}]}
    (prediction,) = httpx.post(f"{mcp.url}/v1/models/mini:predict", json=body, timeout=60.0).json()["predictions"]
    assert prediction["image"]["format"] == "PNG"
    assert base64.b64decode(prediction["image"]["b64"]) == fox


@pytest.mark.parametrize("scenario", CONFORMANCE)
def test_conformance(mcp: WebServer, scenario: str, tmp_path: Path) -> None:
    """The scenarios of the MCP conformance suite that need no special tools of the server."""
    program = NODE / "node_modules" / ".bin" / "conformance"
    command: list[str | Path] = [
        program,
        "server",
        "--url",
        f"{mcp.url}/mcp",
        "--scenario",
        scenario,
        "--output-dir",
        tmp_path,
    ]
    done = subprocess.run(command, env=mcp.environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_inspector(mcp: WebServer) -> None:
    """The MCP inspector's command line."""
    program = NODE / "node_modules" / ".bin" / "mcp-inspector"

    def inspect(*arguments: str) -> Any:
        command: list[str | Path] = [program, "--cli", f"{mcp.url}/mcp", "--transport", "http", *arguments]
        done = subprocess.run(command, env=mcp.environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    assert len(inspect("--method", "tools/list")["tools"]) == 5
    call = ("--method", "tools/call", "--tool-name", "generate_image", "--tool-arg", f"prompt={FOX.prompt}")
    content = inspect(*call)["content"]
    assert Image.open(io.BytesIO(base64.b64decode(content[1]["data"]))).size == (64, 64)


async def test_stdio(server: TritonServer, tmp_path: Path, fox: bytes) -> None:
    transport = StdioTransport(
        str(BIN / "aquatint-mcp"), ["--transport", "stdio"], env=mcp_environment(server.grpc_url, tmp_path)
    )
    async with McpClient(transport) as client:
        result = await client.call_tool("generate_image", {"prompt": FOX.prompt, "seed": FOX.seed})
    assert base64.b64decode(result.content[1].data) == fox


def test_a_killed_server_serves_no_half_image(server: TritonServer, tmp_path: Path) -> None:
    """Killed while generating and storing, again and again; what it lists afterwards is whole."""
    mcp = WebServer("aquatint-mcp", mcp_environment(server.grpc_url, tmp_path))
    body = {"prompt": FOX.prompt, "steps": 1, "n": 10, "response_format": "url"}
    try:
        for delay_s in (0.03, 0.06, 0.1, 0.15):
            mcp.start()
            with httpx.Client(base_url=mcp.url, timeout=30.0) as client:
                assert client.post("/v1/images/generations", json=body).status_code == 200
                with contextlib.suppress(httpx.TimeoutException):
                    client.post("/v1/images/generations", json=body, timeout=delay_s)
            mcp.stop(signal.SIGKILL)
        mcp.start()
        listed = httpx.get(f"{mcp.url}/images?limit=200").json()["images"]
        assert len(listed) >= 40
        for entry in listed:
            data = httpx.get(entry["url"]).content
            assert len(data) == entry["size"]
            assert pixels(data).shape == (64, 64, 3)
            assert read_parameters(data)["prompt"] == FOX.prompt
    finally:
        mcp.stop()


def test_strangers_are_kept_out(server: TritonServer, tmp_path: Path) -> None:
    """With tokens set nothing but health and known ids is open, and no secret is logged."""
    settings = mcp_environment(server.grpc_url, tmp_path, AQUATINT_TOKENS='{"alice": "s3cret-token"}')
    with (tmp_path / "log").open("wb") as log, WebServer("aquatint-mcp", settings, log) as mcp:
        url = mcp.url
        initialize = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        accept = {"Accept": "application/json, text/event-stream"}
        assert httpx.post(f"{url}/mcp", json=initialize, headers=accept).status_code == 401
        assert httpx.get(f"{url}/images").status_code == 401
        good = {"Authorization": "Bearer s3cret-token"}
        assert httpx.get(f"{url}/images", headers=good).status_code == 200
        assert httpx.get(f"{url}/images", headers={"Authorization": "Bearer s3cret-tokem"}).status_code == 401
    assert "s3cret" not in (tmp_path / "log").read_text()


def test_it_says_why_it_does_not_start(server: TritonServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "aquatint-mcp"],
        env=mcp_environment(server.grpc_url, tmp_path, AQUATINT_HOST="0.0.0.0"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "AQUATINT_TOKENS" in done.stderr
    assert "Traceback" not in done.stderr
