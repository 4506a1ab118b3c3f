"""Run an app on the configured address, and refuse to expose it unprotected."""

from __future__ import annotations

import ipaddress

import uvicorn
from fastapi import FastAPI

from aquatint.contract.errors import InvalidRequest
from aquatint.settings import ApiSettings

_GRACE_S = 10


async def serve(app: FastAPI, settings: ApiSettings) -> None:
    """Serve until a signal; requests under way get 10 s to finish."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    await uvicorn.Server(config).serve()


def check_exposure(settings: ApiSettings) -> None:
    """Raise ``InvalidRequest`` if anyone on the network could generate and delete without a token."""
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
