"""Tools, resources and prompts by FastMCP's client in memory, over the fake engine."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp_types
import numpy as np
import pytest
from aquatint_mcp.app import create_app
from aquatint_mcp.server import build_server
from aquatint_mcp.settings import McpSettings
from fastmcp import Client
from fastmcp.client.client import CallToolResult
from fastmcp.exceptions import ToolError
from fastmcp_tasks import call_tool_task
from mcp.shared.exceptions import MCPError
from PIL import Image

from aquatint.contract import errors
from aquatint.http.auth import RateLimiter
from aquatint.http.serve import check_exposure
from aquatint.images import ImageStore
from aquatint.settings import ApiSettings
from aquatint.storage import FileObjects
from aquatint.testing import FakeGenerator
from tests.openapi import undescribed
from tests.previews import pixels
from tests.serving import until

PREVIEW = "aquatint/preview"


@pytest.fixture
def engine() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(FileObjects(tmp_path), b"k" * 32, "http://public")


def structured(result: CallToolResult) -> dict[str, Any]:
    assert result.structured_content is not None
    return result.structured_content


def text_of(block: mcp_types.ContentBlock) -> str:
    assert isinstance(block, mcp_types.TextContent)
    return block.text


def image_of(block: mcp_types.ContentBlock) -> mcp_types.ImageContent:
    assert isinstance(block, mcp_types.ImageContent)
    return block


def link_of(block: mcp_types.ContentBlock) -> mcp_types.ResourceLink:
    assert isinstance(block, mcp_types.ResourceLink)
    return block


class Seen:
    """What a client was told while a tool ran."""

    def __init__(self) -> None:
        self.progress: list[tuple[float, float | None]] = []
        self.previews: list[dict[str, Any]] = []

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append((progress, total))

    async def on_message(self, message: Any) -> None:
        meta = getattr(getattr(message, "params", None), "meta", None) or {}
        if PREVIEW in meta:
            self.previews.append(meta[PREVIEW])


@pytest.fixture
def seen() -> Seen:
    return Seen()


# The handshake of 2025-11-25 and the stateless protocol of 2026-07-28.
@pytest.fixture(params=["legacy", "2026-07-28"])
async def client(
    request: pytest.FixtureRequest, engine: FakeGenerator, store: ImageStore, seen: Seen
) -> AsyncIterator[Client[Any]]:
    server = build_server(engine, store, preview_every=2, limiter=RateLimiter("30/minute"))
    async with Client(
        server, mode=request.param, progress_handler=seen.on_progress, message_handler=seen.on_message
    ) as connected:
        yield connected


async def test_an_image_with_everything_about_it(client: Client[Any], store: ImageStore) -> None:
    result = await client.call_tool("generate_image", {"prompt": "a fox", "seed": 5, "num_images": 2, "width": 32})
    text, *pictures = result.content
    assert [block.type for block in pictures] == ["image", "resource_link"] * 2
    assert Image.open(io.BytesIO(base64.b64decode(image_of(pictures[0]).data))).size == (32, 64)
    generated = structured(result)
    assert [image["seed"] for image in generated["images"]] == [5, 6]
    assert generated["parameters"]["prompt"] == "a fox"
    assert generated["images"][0]["url"] in text_of(text)
    assert generated["images"][0]["resource"] == link_of(pictures[1]).uri
    stored, data = await store.get(generated["images"][0]["id"])
    assert base64.b64decode(image_of(pictures[0]).data) == data
    assert stored.parameters["width"] == 32


async def test_progress_and_previews(engine: FakeGenerator, store: ImageStore, seen: Seen) -> None:
    server = build_server(engine, store, preview_every=2)
    async with Client(
        server, mode="legacy", progress_handler=seen.on_progress, message_handler=seen.on_message
    ) as client:
        generated = await client.call_tool("generate_image", {"prompt": "a fox"})
    assert seen.progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [preview["step"] for preview in seen.previews] == [2, 4]
    # The previews of the fake engine are its images.
    picture = next(block for block in generated.content if block.type == "image")
    shown = pixels(picture.data)
    for preview in seen.previews:
        np.testing.assert_array_equal(pixels(preview["data"]), shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "InvalidRequest: prompt: must not be empty"),
        ({"prompt": "x" * 5000}, "InvalidRequest: prompt: must be at most 4096 bytes"),
        ({"prompt": "x", "width": 7}, "InvalidRequest: width: must be a multiple of 16"),
        ({"prompt": "x", "num_images": 11}, "InvalidRequest: num_images: Input should be less than or equal to 10"),
        ({"prompt": "x", "seed": "many"}, "InvalidRequest: seed: Input should be a valid integer"),
        ({"prompt": "x", "eta": 1}, "InvalidRequest: eta: Unexpected keyword argument"),
        ({}, "InvalidRequest: prompt: Missing required argument"),
        ({"prompt": "x", "model": "other"}, "ModelNotFound: no model 'other' here; there is: fake"),
    ],
)
async def test_errors_are_mcp_errors(client: Client[Any], arguments: dict[str, Any], message: str) -> None:
    result = await client.call_tool("generate_image", arguments, raise_on_error=False)
    assert result.is_error
    assert text_of(result.content[0]).startswith(message)
    assert "pydantic" not in text_of(result.content[0])


async def test_unexpected_failures_show_only_an_id(engine: FakeGenerator, store: ImageStore) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    store.put = broken  # type: ignore[method-assign, assignment]
    async with Client(build_server(engine, store), mode="legacy") as client:
        with pytest.raises(ToolError, match=r"Internal: internal error [0-9a-f]{12}") as caught:
            await client.call_tool("generate_image", {"prompt": "a fox"})
    assert "secret" not in str(caught.value)


async def test_engine_failures(client: Client[Any], engine: FakeGenerator) -> None:
    engine.transport.failures = [errors.Overloaded("the queue is full", 1.0)]
    with pytest.raises(ToolError, match="Overloaded: the queue is full; retry after 1 s"):
        await client.call_tool("generate_image", {"prompt": "a fox"})


async def test_cancel_reaches_the_engine(engine: FakeGenerator, store: ImageStore) -> None:
    engine.gate = asyncio.Event()
    async with Client(build_server(engine, store), mode="legacy") as client:
        call = asyncio.create_task(client.call_tool("generate_image", {"prompt": "a fox"}))
        await until(lambda: engine.active == 1)
        call.cancel()
        await until(lambda: engine.active == 0)
        assert structured(await client.call_tool("list_images"))["images"] == []


async def test_as_a_background_task(engine: FakeGenerator, store: ImageStore) -> None:
    async with Client(build_server(engine, store), mode="2026-07-28") as client:
        task = await call_tool_task(client, "generate_image", {"prompt": "a fox", "seed": 5})
        result = await task.result()
        assert structured(result)["images"][0]["seed"] == 5


async def test_gallery(client: Client[Any]) -> None:
    ids = [
        structured(await client.call_tool("generate_image", {"prompt": prompt}))["images"][0]["id"]
        for prompt in ("a fox", "an owl", "a red fox")
    ]
    listed = structured(await client.call_tool("list_images", {"query": "fox", "limit": 1}))
    assert [image["id"] for image in listed["images"]] == [ids[2]]
    more = structured(await client.call_tool("list_images", {"query": "fox", "cursor": listed["next_cursor"]}))
    assert [image["id"] for image in more["images"]] == [ids[0]]
    fetched = await client.call_tool("get_image", {"image_id": ids[1]})
    assert structured(fetched)["parameters"]["prompt"] == "an owl"
    assert fetched.content[0].type == "image"
    (content,) = await client.read_resource(f"image://{ids[1]}")
    assert isinstance(content, mcp_types.BlobResourceContents)
    assert content.mime_type == "image/png"
    assert Image.open(io.BytesIO(base64.b64decode(content.blob))).size == (64, 64)
    gallery = (await client.read_resource("gallery://images"))[0]
    assert isinstance(gallery, mcp_types.TextResourceContents)
    assert ids[1] in gallery.text
    await client.call_tool("delete_image", {"image_id": ids[1]})
    for call in (client.call_tool("get_image", {"image_id": ids[1]}), client.read_resource(f"image://{ids[1]}")):
        with pytest.raises((ToolError, MCPError), match="ImageNotFound"):
            await call


@pytest.mark.parametrize("uri", ["image://../../etc/passwd", "image://%2e%2e%2fkey", "image://x"])
async def test_strange_resources(client: Client[Any], uri: str) -> None:
    with pytest.raises(MCPError, match=r"not found|no image"):
        await client.read_resource(uri)


async def test_descriptions(client: Client[Any]) -> None:
    tools = {tool.name: tool for tool in await client.list_tools()}
    assert set(tools) == {"generate_image", "list_models", "list_images", "get_image", "delete_image"}
    assert all(tool.output_schema and tool.description and tool.annotations for tool in tools.values())
    hints = {name: tool.annotations for name, tool in tools.items() if tool.annotations}
    assert hints["delete_image"].destructive_hint
    assert hints["list_images"].read_only_hint
    limits = tools["generate_image"].input_schema["properties"]["num_images"]
    assert (limits["minimum"], limits["maximum"]) == (1, 10)
    models = structured(await client.call_tool("list_models"))["models"]
    assert (models[0]["name"], models[0]["max_size"]) == ("fake", 128)
    prompts = {prompt.name for prompt in await client.list_prompts()}
    assert prompts == {"draw", "variations", "explore"}
    message = (await client.get_prompt("draw", {"subject": "fox"})).messages[0]
    assert "a flat emoji of a fox on a blue background" in text_of(message.content)


async def test_rate_limit(engine: FakeGenerator, store: ImageStore) -> None:
    async with Client(build_server(engine, store, limiter=RateLimiter("1/hour")), mode="legacy") as client:
        await client.call_tool("generate_image", {"prompt": "a fox"})
        with pytest.raises(ToolError, match="Overloaded: more than 1 per 1 hour"):
            await client.call_tool("generate_image", {"prompt": "a fox"})


async def test_large_images_are_inlined_small(engine: FakeGenerator, store: ImageStore) -> None:
    async with Client(build_server(engine, store, inline_bytes=0), mode="legacy") as client:
        result = await client.call_tool("generate_image", {"prompt": "a fox"})
        assert [block.type for block in result.content] == ["text", "resource_link"]
    async with Client(build_server(engine, store, inline_bytes=100), mode="legacy") as client:
        result = await client.call_tool("generate_image", {"prompt": "a fox"})
        assert image_of(result.content[1]).mime_type == "image/jpeg"


@pytest.mark.parametrize("options", [{"tokens": {"a": "b"}}, {"allow_anonymous": True}, {"host": "::1"}])
def test_exposure_is_deliberate(options: dict[str, Any]) -> None:
    check_exposure(ApiSettings(**{"host": "0.0.0.0", **options}))
    with pytest.raises(errors.InvalidRequest, match="AQUATINT_TOKENS"):
        check_exposure(ApiSettings(host="0.0.0.0"))


def test_the_seed_demos_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSERS_RUNTIME_URL", "http://runtime:8080/")
    monkeypatch.setenv("DIFFUSERS_MODEL_ID", "redhat-dog")
    assert McpSettings().engine() == {"url": "runtime:8080", "protocol": "http", "model": "redhat-dog"}


def test_every_response_beside_mcp_is_described(engine: FakeGenerator, store: ImageStore) -> None:
    assert undescribed(create_app(engine, store, ApiSettings(), mcp_settings=McpSettings())) == []
