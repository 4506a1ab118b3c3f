"""``aquatint mcp``, also installed as ``aquatint-mcp``."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import Annotated

import typer

from aquatint.cli import extras
from aquatint.cli.terminal import clean_errors, log_to_terminal


def add(app: typer.Typer) -> None:
    """Add the commands of this component."""
    app.command()(mcp)


class Transport(StrEnum):
    """MCP's two transports."""

    HTTP = "http"
    STDIO = "stdio"


def mcp(
    transport: Annotated[Transport, typer.Option(help="stdio is for clients that start this program themselves.")] = (
        Transport.HTTP
    ),
) -> None:
    """Serve MCP at /mcp, the images API at /v1 and stored images at /images; settings come from the environment."""
    with extras.needs("mcp", "aquatint mcp"):
        # A client's installation lacks the server's packages.
        from aquatint_mcp.serve import serve_http, serve_stdio  # noqa: PLC0415
    # With stdio, standard output belongs to the protocol.
    log_to_terminal(logging.INFO, quiet=("httpx", "docket", "mcp"))
    with clean_errors():
        asyncio.run(serve_http() if transport is Transport.HTTP else serve_stdio())


def main() -> None:
    """Run ``aquatint-mcp``."""
    typer.run(mcp)
