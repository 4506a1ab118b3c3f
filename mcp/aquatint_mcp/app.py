"""The HTTP server around the MCP server: images API, stored images, health, and the guards in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from aquatint.contract.errors import AquatintError, EngineUnavailable
from aquatint.contract.image_generator import ImageGenerator
from aquatint.http import health, image_files, images_api, install_error_handlers, predict_v1
from aquatint.http.auth import RateLimiter, authenticator, caller_of
from aquatint.http.disconnect import CancelOnDisconnect
from aquatint.http.guard import BodyLimit, HostOriginGuard
from aquatint.images import ImageStore
from aquatint.settings import ApiSettings
from aquatint_mcp.server import build_server
from aquatint_mcp.settings import McpSettings

_log = logging.getLogger("aquatint.mcp")


def create_app(
    engine: ImageGenerator,
    store: ImageStore,
    settings: ApiSettings,
    *,
    mcp_settings: McpSettings,
    sweep_every_s: float = 300.0,
) -> FastAPI:
    """Make the app that serves ``/mcp``, ``/v1/…``, ``/images``, ``/health/…`` and ``/metrics``."""
    authenticate, limiter = authenticator(settings), RateLimiter(settings.rate_limit)
    server = build_server(
        engine,
        store,
        inline_bytes=mcp_settings.inline_bytes,
        preview_every=mcp_settings.preview_every,
        authenticate=authenticate,
        limiter=limiter,
    )
    # Our own guard protects every path, including MCP's.
    mcp_app = server.http_app(path="/mcp", host_origin_protection=False)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(store, sweep_every_s))
        try:
            async with mcp_app.lifespan(app):
                yield
        finally:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)

    async def engine_ready() -> None:
        if not await engine.is_ready():
            raise EngineUnavailable("the model is not ready")

    app = FastAPI(title="Aquatint", lifespan=lifespan, docs_url=None, redoc_url=None)
    install_error_handlers(app)
    limited, free = caller_of(authenticate, limiter), caller_of(authenticate, None)
    app.include_router(images_api(engine, limited, store))
    app.include_router(predict_v1(engine, limited))
    app.include_router(image_files(store, free))
    app.include_router(health({"engine": engine_ready, "store": store.check}))
    app.mount("/", mcp_app)
    app.add_middleware(CancelOnDisconnect, prefixes=["/v1/"])
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(HostOriginGuard, hosts=settings.hosts, origins=settings.cors_origins)
    return app


async def _sweep(store: ImageStore, every_s: float) -> None:
    while True:
        try:
            if removed := await store.sweep():
                _log.info("%d expired or abandoned images removed", removed)
        except AquatintError as error:
            _log.warning("the image clean-up failed: %s", error)
        await asyncio.sleep(every_s)
