"""The chat backend over the fake language model and the real MCP server on the fake engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aquatint_chat.app import create_app
from aquatint_chat.settings import ChatSettings
from aquatint_chat.testing import FakeLlm
from aquatint_chat.toolbox import Toolbox
from aquatint_mcp.server import build_server
from pydantic import SecretStr

from aquatint.images import ImageStore
from aquatint.settings import ApiSettings
from aquatint.storage import FileObjects
from aquatint.testing import FakeGenerator
from tests.serving import served


class Chat:
    """A client of the backend."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def say(self, content: str, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
        """All events of a turn."""
        return [event async for event in self.stream(content, **fields)]

    async def stream(self, content: str, **fields: Any) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """The turn's events as they come; leaving closes the connection."""
        body = {"content": content, **fields}
        async with self.http.stream("POST", "/api/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            name = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))

    async def conversation(self, conversation_id: str) -> dict[str, Any]:
        """As stored."""
        answer = (await self.http.get(f"/api/v1/conversations/{conversation_id}")).json()
        assert "error" not in answer
        return dict(answer)


def named(events: list[tuple[str, dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    """The events of one name."""
    return [data for event, data in events if event == name]


@pytest.fixture
def llm() -> FakeLlm:
    return FakeLlm()


@pytest.fixture
def engine() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def settings() -> dict[str, Any]:
    """Chat settings of a test's own."""
    return {}


@pytest.fixture
def api_settings() -> ApiSettings:
    return ApiSettings(rate_limit="1000/minute")


@pytest.fixture
async def chat(
    llm: FakeLlm, engine: FakeGenerator, settings: dict[str, Any], api_settings: ApiSettings, tmp_path: Path
) -> AsyncIterator[Chat]:
    store = ImageStore(FileObjects(tmp_path / "images"), b"k" * 32, "http://public")
    toolbox = Toolbox({"aquatint": build_server(engine, store, preview_every=2)}, timeout_s=20)
    async with contextlib.AsyncExitStack() as stack:
        llm_url = await stack.enter_async_context(served(llm.app()))
        database = SecretStr(f"sqlite:///{tmp_path / 'chat.db'}")
        chosen = ChatSettings(**{"llm_url": f"{llm_url}/v1", "database_url": database, **settings})
        url = await stack.enter_async_context(served(create_app(chosen, api_settings, toolbox)))
        yield Chat(await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20)))
