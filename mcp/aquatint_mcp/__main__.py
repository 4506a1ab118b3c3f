"""``aquatint-mcp``: serve MCP over HTTP beside the images API, or over stdio for one client."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from enum import StrEnum
from typing import Annotated

import typer
import uvicorn
from rich.console import Console
from rich.logging import RichHandler

from aquatint.client import connect_async
from aquatint.errors import AquatintError, InvalidRequest
from aquatint.settings import ApiSettings, StorageSettings, read_settings
from aquatint.storage import open_image_store
from aquatint_mcp.app import create_app
from aquatint_mcp.server import build_server
from aquatint_mcp.settings import McpSettings

_err = Console(stderr=True)
_GRACE_S = 10


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
    handler = RichHandler(console=_err, show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    for chatty in ("httpx", "docket", "mcp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        asyncio.run(_serve_http() if transport is Transport.HTTP else _serve_stdio())
    except AquatintError as error:
        _err.print(f"{type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


async def _serve_http() -> None:
    settings, storage = read_settings(ApiSettings), read_settings(StorageSettings)
    mcp_settings = read_settings(McpSettings)
    check_exposure(settings)
    store = open_image_store(storage, settings.base_url)
    async with connect_async(**mcp_settings.engine()) as engine:
        app = create_app(engine, store, settings, mcp_settings, storage.sweep_every_s)
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
        _err.print(f"MCP {settings.base_url}/mcp  images API {settings.base_url}/v1", soft_wrap=True)
        await uvicorn.Server(config).serve()


async def _serve_stdio() -> None:
    settings, mcp_settings = read_settings(ApiSettings), read_settings(McpSettings)
    store = open_image_store(read_settings(StorageSettings), settings.base_url)
    async with connect_async(**mcp_settings.engine()) as engine:
        server = build_server(engine, store, mcp_settings.inline_bytes, mcp_settings.preview_every)
        await server.run_stdio_async(show_banner=False)


def check_exposure(settings: ApiSettings) -> None:
    """Raises ``InvalidRequest`` when anyone on the network could draw and delete without a token."""
    protected = settings.tokens or settings.jwks_url or settings.allow_anonymous
    if not protected and not _is_loopback(settings.host):
        raise InvalidRequest(
            "AQUATINT_HOST: without tokens this server only listens on loopback; set AQUATINT_TOKENS or "
            "AQUATINT_JWKS_URL, or AQUATINT_ALLOW_ANONYMOUS=true if everyone who can reach it may use it"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    """The console script."""
    typer.run(serve)


if __name__ == "__main__":
    main()
