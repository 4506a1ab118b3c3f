"""``aquatint chat``, also installed as ``aquatint-chat``: serve the chat page and its API."""

from __future__ import annotations

import asyncio
import logging

import typer

from aquatint.cli import extras
from aquatint.cli.terminal import ERR, clean_errors, log_to_terminal


def add(app: typer.Typer) -> None:
    """Add the commands of this component."""
    app.command()(chat)


def chat() -> None:
    """Serve the chat page; settings come from the environment."""
    with extras.needs("chatbot", "aquatint chat"):
        # A client's installation lacks the server's packages.
        from aquatint.http.serve import check_exposure, serve  # noqa: PLC0415
        from aquatint.http.telemetry import trace_if_configured  # noqa: PLC0415
        from aquatint.settings import ApiSettings, read_settings  # noqa: PLC0415
        from aquatint_chat.app import create_app  # noqa: PLC0415
        from aquatint_chat.settings import ChatSettings  # noqa: PLC0415
    log_to_terminal(logging.INFO, quiet=("httpx", "httpx2", "mcp", "fastmcp", "openai"))
    with clean_errors():
        settings, api_settings = read_settings(ChatSettings), read_settings(ApiSettings)
        check_exposure(api_settings)
        app = create_app(settings, api_settings)
        trace_if_configured(app, "aquatint-chat")
        if not settings.web.is_dir():
            ERR.print("the page is not built, only the API is served; to build it: make web", soft_wrap=True)
        ERR.print(f"chat {api_settings.base_url}", soft_wrap=True)
        asyncio.run(serve(app, api_settings))


def main() -> None:
    """Run ``aquatint-chat``."""
    typer.run(chat)
