"""``aquatint-mcp``: serve MCP over HTTP beside the images API, or over stdio for one client."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import Annotated

import typer

from aquatint.api.serve import check_exposure
from aquatint.api.serve import serve as serve_app
from aquatint.api.telemetry import trace_if_configured
from aquatint.client import connect_async
from aquatint.settings import ApiSettings, StorageSettings, read_settings
from aquatint.storage import open_image_store
from aquatint.terminal import ERR, clean_errors, log_to_terminal
from aquatint_mcp.app import create_app
from aquatint_mcp.server import build_server
from aquatint_mcp.settings import McpSettings


class Transport(StrEnum):
    """MCP's two transports."""

    HTTP = "http"
    STDIO = "stdio"


def serve(
    transport: Annotated[Transport, typer.Option(help="stdio is for a client that starts this program.")] = (
        Transport.HTTP
    ),
) -> None:
    """Serve MCP at /mcp, the images API at /v1 and stored pictures at /images; settings come from the environment."""
    # Standard output belongs to the protocol when it is stdio.
    log_to_terminal(logging.INFO, quiet=("httpx", "docket", "mcp"))
    with clean_errors():
        asyncio.run(_serve_http() if transport is Transport.HTTP else _serve_stdio())


async def _serve_http() -> None:
    settings, storage = read_settings(ApiSettings), read_settings(StorageSettings)
    mcp_settings = read_settings(McpSettings)
    check_exposure(settings)
    store = open_image_store(storage, settings.base_url)
    async with connect_async(**mcp_settings.engine()) as engine:
        app = create_app(engine, store, settings, mcp_settings, storage.sweep_every_s)
        trace_if_configured(app, "aquatint-mcp")
        ERR.print(f"MCP {settings.base_url}/mcp  images API {settings.base_url}/v1", soft_wrap=True)
        await serve_app(app, settings)


async def _serve_stdio() -> None:
    settings, mcp_settings = read_settings(ApiSettings), read_settings(McpSettings)
    store = open_image_store(read_settings(StorageSettings), settings.base_url)
    async with connect_async(**mcp_settings.engine()) as engine:
        server = build_server(engine, store, mcp_settings.inline_bytes, mcp_settings.preview_every)
        await server.run_stdio_async(show_banner=False)


def main() -> None:
    """The console script."""
    typer.run(serve)


if __name__ == "__main__":
    main()
