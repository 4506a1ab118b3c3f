"""Settings, the MCP configuration file, and several servers at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aquatint_chat.settings import ChatSettings, Intent
from aquatint_chat.toolbox import Toolbox, ToolResult
from aquatint_llm import EMBEDDED_MODEL
from fastmcp import FastMCP

from aquatint.contract.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest
from aquatint.settings import read_settings


def test_mcp_servers(tmp_path: Path) -> None:
    config = tmp_path / "mcp.json"
    entries = {"draw": {"url": "http://a/mcp", "headers": {"X": "1"}}, "files": {"command": "run", "args": ["-x"]}}
    config.write_text(json.dumps({"mcpServers": entries}))
    servers = ChatSettings(mcp_config=config).mcp_servers()
    assert servers["draw"].transport() == {"url": "http://a/mcp", "headers": {"X": "1"}}
    assert servers["files"].transport()["args"] == ["-x"]
    assert list(ChatSettings().mcp_servers()) == ["aquatint"]


@pytest.mark.parametrize("text", ["", "{}", '{"mcpServers": {}}', "[1]", None])
def test_a_wrong_mcp_config(tmp_path: Path, text: str | None) -> None:
    config = tmp_path / "mcp.json"
    if text is not None:
        config.write_text(text)
    with pytest.raises(InvalidRequest, match="AQUATINT_CHAT_MCP_CONFIG"):
        ChatSettings(mcp_config=config).mcp_servers()


def test_intent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ChatSettings().intent_for(EMBEDDED_MODEL)[0] is Intent.ROUTER
    assert ChatSettings().intent_for("llama-4")[0] is Intent.TOOLS
    monkeypatch.setenv("AQUATINT_CHAT_INTENT", "tools")
    assert read_settings(ChatSettings).intent_for(EMBEDDED_MODEL) == (Intent.TOOLS, "set by AQUATINT_CHAT_INTENT")
    monkeypatch.setenv("AQUATINT_CHAT_INTENT", "guess")
    with pytest.raises(InvalidRequest, match="intent"):
        read_settings(ChatSettings)


def server_with(*names: str, answer: str = "done") -> FastMCP:
    server: FastMCP = FastMCP("test")
    for name in names:
        server.tool(lambda: answer, name=name)
    return server


async def result_of(toolbox: Toolbox, name: str) -> str:
    *_, last = [event async for event in toolbox.call(name, {})]
    assert isinstance(last, ToolResult)
    return last.text


async def test_several_servers() -> None:
    """Equal names are told apart; a server that is away takes only its own tools with it."""
    servers = {"one": server_with("look", "only"), "two": server_with("look", answer="two")}
    toolbox = Toolbox(servers, timeout_s=5)
    assert set(await toolbox.tools()) == {"one__look", "two__look", "only"}
    assert await result_of(toolbox, "two__look") == "two"
    assert await result_of(toolbox, "one__look") == "done"
    away = Toolbox({"one": servers["one"], "gone": "http://127.0.0.1:9/mcp"}, timeout_s=5)
    assert set(await away.tools()) == {"look", "only"}
    with pytest.raises(EngineUnavailable, match="gone"):
        await away.check()
    with pytest.raises(EngineUnavailable):
        await away.tool("other")


async def test_a_tool_that_takes_too_long() -> None:
    server: FastMCP = FastMCP("slow")

    @server.tool
    async def sleep() -> str:
        await asyncio.sleep(60)
        return "never"

    with pytest.raises(DeadlineExceeded):
        await result_of(Toolbox({"slow": server}, timeout_s=0.3), "sleep")
