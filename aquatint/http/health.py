"""Liveness, readiness that really asks, and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import prometheus_client
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from aquatint.contract.errors import AquatintError

Check = Callable[[], Awaitable[None]]


def health(checks: Mapping[str, Check], informative: Mapping[str, Check] | None = None) -> APIRouter:
    """``/health/live``, ``/health/ready`` (503 with the failing parts named) and ``/metrics``.

    A check raises ``AquatintError`` when its part is not ready; ``informative`` ones are told and not counted.
    """
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @router.get("/health/ready")
    async def ready() -> JSONResponse:
        """Every part that is needed answers."""
        parts = {name: await _outcome(check) for name, check in checks.items()}
        status = 200 if set(parts.values()) <= {"ok"} else 503
        told = {name: await _outcome(check) for name, check in (informative or {}).items()}
        return JSONResponse({**parts, **told}, status)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return router


async def _outcome(check: Check) -> str:
    try:
        await check()
    except AquatintError as error:
        return f"{type(error).__name__}: {error}"
    return "ok"
