"""``aquatint-chat``: serve the chat page and its API."""

from __future__ import annotations

import asyncio
import logging

import typer

from aquatint.api.serve import check_exposure, serve
from aquatint.api.telemetry import trace_if_configured
from aquatint.settings import ApiSettings, read_settings
from aquatint.terminal import ERR, clean_errors, log_to_terminal
from aquatint_chat.app import create_app
from aquatint_chat.settings import ChatSettings


def run() -> None:
    """Serve the chat page; settings come from the environment."""
    log_to_terminal(logging.INFO, quiet=("httpx", "httpx2", "mcp", "fastmcp", "openai"))
    with clean_errors():
        settings, api_settings = read_settings(ChatSettings), read_settings(ApiSettings)
        check_exposure(api_settings)
        app = create_app(settings, api_settings)
        trace_if_configured(app, "aquatint-chat")
        if not settings.web.is_dir():
            ERR.print("the page is not built: make web; the API works", soft_wrap=True)
        ERR.print(f"chat {api_settings.base_url}", soft_wrap=True)
        asyncio.run(serve(app, api_settings))


def main() -> None:
    """The console script."""
    typer.run(run)


if __name__ == "__main__":
    main()
