"""The HTTP server of the chat: its API, the page, health, and the guards in front of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aquatint.http import health, install_error_handlers
from aquatint.http.auth import RateLimiter, authenticator, caller_of
from aquatint.http.disconnect import CancelOnDisconnect
from aquatint.http.guard import BodyLimit, HostOriginGuard
from aquatint.settings import ApiSettings
from aquatint_chat import routes
from aquatint_chat.llm import LanguageModel
from aquatint_chat.settings import ChatSettings
from aquatint_chat.store import ChatStore
from aquatint_chat.toolbox import Toolbox
from aquatint_chat.turn import Turns

# Previews are data URLs and downloads are blobs; everything else comes from this server.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
        "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def create_app(settings: ChatSettings, api_settings: ApiSettings, toolbox: Toolbox | None = None) -> FastAPI:
    """Make the app that serves ``/``, ``/api/v1/…``, ``/health/…`` and ``/metrics``. Raises ``InvalidRequest``."""
    store = ChatStore(settings.database_url.get_secret_value())
    llm = LanguageModel(settings)
    toolbox = toolbox or Toolbox(settings.mcp_servers(), settings.tool_timeout_s)
    turns = Turns(llm, toolbox, store, settings=settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await store.open()
        yield
        await turns.close()
        await llm.close()
        await store.close()

    async def llm_ready() -> None:
        await llm.model()

    app = FastAPI(title="Aquatint chat", lifespan=lifespan, docs_url=None, redoc_url=None)
    install_error_handlers(app)
    authenticate = authenticator(api_settings)
    free = caller_of(authenticate, None)
    app.include_router(routes.chat_routes(turns, caller_of(authenticate, RateLimiter(api_settings.rate_limit))))
    app.include_router(routes.conversation_routes(store, free))
    app.include_router(routes.image_routes(store, free))
    app.include_router(routes.status_routes(llm, toolbox, settings, caller=free))
    # Without the language model the page still generates images.
    app.include_router(health({"database": store.check, "drawing": toolbox.check}, {"llm": llm_ready}))
    if settings.web.is_dir():
        app.mount("/", StaticFiles(directory=settings.web, html=True))
    app.add_middleware(CancelOnDisconnect, prefixes=[routes.COMPLETIONS])
    app.add_middleware(BodyLimit, max_bytes=api_settings.max_body_bytes)
    app.add_middleware(HostOriginGuard, hosts=api_settings.hosts, origins=api_settings.cors_origins)
    app.add_middleware(_SecurityHeaders)
    return app


class _SecurityHeaders:
    """Adds ``_HEADERS`` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        await self._app(scope, receive, with_headers)
