"""Tools of one or more MCP servers: listed, validated, called with progress, cancelled with the caller."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jsonschema
import mcp_types
from fastmcp import Client
from fastmcp.exceptions import FastMCPError
from mcp.shared.exceptions import MCPError
from openai.types.chat import ChatCompletionFunctionToolParam
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, DeadlineExceeded, EngineUnavailable, InvalidRequest
from aquatint_chat.settings import McpServer

_log = logging.getLogger("aquatint.chat")

# The key of the image so far in a progress notification's ``_meta``; ``mcp/`` writes it.
PREVIEW_META = "aquatint/preview"
_LIST_EVERY_S = 30.0
_CONNECT_TIMEOUT_S = 10.0
_ATTEMPTS = 3
_CONNECTION_ERRORS = (httpx2.HTTPError, OSError, RuntimeError, FastMCPError, MCPError, TimeoutError)


@dataclass(frozen=True)
class Tool:
    """A tool, by the name that the language model sees; ``remote_name`` is the server's."""

    name: str
    server: str
    remote_name: str
    description: str
    schema: dict[str, Any]

    def for_llm(self) -> ChatCompletionFunctionToolParam:
        """Return the tool in the format of OpenAI's chat completions."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": self.schema},
        }


@dataclass(frozen=True)
class ToolProgress:
    """How far a call is; ``preview`` is a data URL."""

    progress: float
    total: float | None
    preview: str | None


@dataclass(frozen=True)
class ToolImage:
    """An image that a tool made."""

    data: bytes
    media_type: str
    seed: int | None = None


@dataclass(frozen=True)
class ToolResult:
    """The result of a call: text, images and structured content."""

    text: str
    images: list[ToolImage] = field(default_factory=list)
    structured: dict[str, Any] = field(default_factory=dict)


class Toolbox:
    """The tools of all configured servers. While a server is down only its own tools are missing."""

    def __init__(self, servers: Mapping[str, McpServer | Any], timeout_s: float) -> None:
        self._servers = dict(servers)
        self._timeout_s = timeout_s
        self._tools: dict[str, Tool] = {}
        self._down: dict[str, str] = {}
        self._listed_at = float("-inf")
        self._listing = asyncio.Lock()

    async def tools(self) -> dict[str, Tool]:
        """Return all tools by name; the servers are asked again every 30 s, and each time while one of them is down."""
        async with self._listing:
            if self._down or time.monotonic() - self._listed_at > _LIST_EVERY_S:
                await self._list()
            return dict(self._tools)

    async def _list(self) -> None:
        found = await asyncio.gather(*map(self._list_server, self._servers), return_exceptions=True)
        self._down = {}
        listed: list[tuple[str, mcp_types.Tool]] = []
        for server, tools in zip(self._servers, found):
            if isinstance(tools, AquatintError):
                self._down[server] = str(tools)
            elif isinstance(tools, BaseException):
                raise tools
            else:
                listed += [(server, tool) for tool in tools]
        names = [tool.name for _, tool in listed]
        # Where several servers have a tool of the same name, the server's name tells them apart.
        self._tools = {
            tool.name if names.count(tool.name) == 1 else f"{server}__{tool.name}": Tool(
                tool.name if names.count(tool.name) == 1 else f"{server}__{tool.name}",
                server,
                tool.name,
                tool.description or "",
                tool.input_schema,
            )
            for server, tool in listed
        }
        self._listed_at = time.monotonic()

    async def _list_server(self, server: str) -> list[mcp_types.Tool]:
        async with self._connected(server) as client:
            return await client.list_tools()

    async def check(self) -> None:
        """Raise ``EngineUnavailable`` naming the servers that are down."""
        await self.tools()
        if self._down:
            raise EngineUnavailable("; ".join(f"{server}: {why}" for server, why in self._down.items()))

    async def tool(self, name: str) -> Tool:
        """Find a tool by name.

        Raises ``InvalidRequest`` if there is none, or ``EngineUnavailable`` if a server that is down may have it.
        """
        tools = await self.tools()
        if name in tools:
            return tools[name]
        if self._down:
            raise EngineUnavailable(f"pictures cannot be generated now: {'; '.join(self._down.values())}")
        raise InvalidRequest(f"tool: there is no {name!r}; available: {', '.join(sorted(tools)) or 'none'}")

    async def structured(self, name: str) -> dict[str, Any]:
        """Call a tool without arguments and return its structured content."""
        async for event in self.call(name, {}):
            if isinstance(event, ToolResult):
                return event.structured
        return {}

    async def call(self, name: str, arguments: dict[str, Any]) -> AsyncGenerator[ToolProgress | ToolResult, None]:
        """Yield progress while the tool runs, then the result. Leaving the iteration cancels the call at the server.

        Raises:
            InvalidRequest: There is no such tool, or the arguments do not fit its schema.
            EngineUnavailable: The server cannot be reached, or went down during the call.
            DeadlineExceeded: The call took longer than ``timeout_s``.
            AquatintError: The tool itself failed.
        """
        tool = await self.tool(name)
        _validate(tool, arguments)
        events: asyncio.Queue[ToolProgress | None] = asyncio.Queue()
        calling = asyncio.create_task(self._call(tool, arguments, events))
        # ``None`` marks the end, whether the call succeeded or not.
        calling.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield await calling
        finally:
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)

    async def _call(self, tool: Tool, arguments: dict[str, Any], events: asyncio.Queue[Any]) -> ToolResult:
        async def on_message(message: Any) -> None:
            if isinstance(message, mcp_types.ProgressNotification):
                events.put_nowait(_progress(message.params))

        try:
            async with asyncio.timeout(self._timeout_s), self._connected(tool.server, on_message) as client:
                answer = await client.call_tool_mcp(tool.remote_name, arguments)
                if answer.is_error:
                    raise _failure(answer)
                return await _result(client, answer)
        except TimeoutError:
            raise DeadlineExceeded(f"{tool.name} took longer than {self._timeout_s:g} s") from None

    @contextlib.asynccontextmanager
    async def _connected(self, server: str, on_message: Any = None) -> AsyncIterator[Client[Any]]:
        """Connect for a single call, so that a server may restart between two."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async for attempt in AsyncRetrying(
                    stop=stop_after_attempt(_ATTEMPTS),
                    wait=wait_exponential(0.1, max=1.0),
                    retry=retry_if_exception_type(_CONNECTION_ERRORS),
                    reraise=True,
                ):
                    with attempt:
                        client = await stack.enter_async_context(self._client(server, on_message))
            except _CONNECTION_ERRORS as error:
                _log.warning("MCP server %s cannot be reached: %s", server, error)
                raise EngineUnavailable(f"the MCP server {server} cannot be reached") from None
            try:
                yield client
            except AquatintError:
                raise
            except _CONNECTION_ERRORS as error:
                if isinstance(error, TimeoutError):
                    raise
                raise errors.from_wire(str(error)) or EngineUnavailable(
                    f"the MCP server {server} failed during the call"
                ) from None

    def _client(self, server: str, on_message: Any) -> Client[Any]:
        entry = self._servers[server]
        transport = {"mcpServers": {server: entry.transport()}} if isinstance(entry, McpServer) else entry
        return Client(transport, mode="legacy", message_handler=on_message, init_timeout=_CONNECT_TIMEOUT_S)


def _validate(tool: Tool, arguments: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(tool.schema)
    for error in validator.iter_errors(arguments):
        where = ".".join(str(part) for part in error.absolute_path) or tool.name
        raise InvalidRequest(f"{where}: {error.message[:200]}")


def _progress(params: Any) -> ToolProgress:
    preview = (params.meta or {}).get(PREVIEW_META)
    url = f"data:{preview['mimeType']};base64,{preview['data']}" if preview else None
    return ToolProgress(params.progress, params.total, url)


def _failure(answer: mcp_types.CallToolResult) -> AquatintError:
    text = _text(answer)
    return errors.from_wire(text) or EngineUnavailable(text[:500] or "the tool failed without a message")


def _text(answer: mcp_types.CallToolResult) -> str:
    return "\n".join(block.text for block in answer.content if isinstance(block, mcp_types.TextContent))


async def _result(client: Client[Any], answer: mcp_types.CallToolResult) -> ToolResult:
    """Fetch the images by their links: those inside the answer may be smaller copies."""
    structured = answer.structured_content or {}
    seeds = {
        entry.get("resource"): entry.get("seed") for entry in structured.get("images", []) if isinstance(entry, dict)
    }
    links = [block for block in answer.content if isinstance(block, mcp_types.ResourceLink)]
    images = [
        image
        for link in links
        if (link.mime_type or "").startswith("image/")
        for image in await _fetch(client, str(link.uri), seeds.get(str(link.uri)))
    ]
    if not images:
        inline = [block for block in answer.content if isinstance(block, mcp_types.ImageContent)]
        images = [ToolImage(base64.b64decode(block.data), block.mime_type) for block in inline]
    return ToolResult(_text(answer) or json.dumps(structured), images, structured)


async def _fetch(client: Client[Any], uri: str, seed: int | None) -> list[ToolImage]:
    contents = await client.read_resource(uri)
    return [
        ToolImage(base64.b64decode(content.blob), content.mime_type or "image/png", seed)
        for content in contents
        if isinstance(content, mcp_types.BlobResourceContents)
    ]
