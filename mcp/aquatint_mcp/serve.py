"""Run the MCP server over HTTP beside the images API, or over stdio for the client that started it."""

from __future__ import annotations

from aquatint.cli.terminal import ERR
from aquatint.client import connect_async
from aquatint.http.serve import check_exposure
from aquatint.http.serve import serve as serve_app
from aquatint.http.telemetry import trace_if_configured
from aquatint.images import open_image_store
from aquatint.settings import ApiSettings, StorageSettings, read_settings
from aquatint_mcp.app import create_app
from aquatint_mcp.server import build_server
from aquatint_mcp.settings import McpSettings


async def serve_http() -> None:
    """Serve MCP at /mcp, the images API at /v1 and stored images at /images, until stopped."""
    settings, storage = read_settings(ApiSettings), read_settings(StorageSettings)
    mcp_settings = read_settings(McpSettings)
    check_exposure(settings)
    store = open_image_store(storage, settings.base_url)
    async with connect_async(**mcp_settings.engine()) as engine:
        app = create_app(engine, store, settings, mcp_settings=mcp_settings, sweep_every_s=storage.sweep_every_s)
        trace_if_configured(app, "aquatint-mcp")
        ERR.print(f"MCP {settings.base_url}/mcp  images API {settings.base_url}/v1", soft_wrap=True)
        await serve_app(app, settings)


async def serve_stdio() -> None:
    """Serve MCP over standard input and output, until they close."""
    settings, mcp_settings = read_settings(ApiSettings), read_settings(McpSettings)
    store = open_image_store(read_settings(StorageSettings), settings.base_url)
    async with connect_async(**mcp_settings.engine()) as engine:
        server = build_server(
            engine, store, inline_bytes=mcp_settings.inline_bytes, preview_every=mcp_settings.preview_every
        )
        await server.run_stdio_async(show_banner=False)
