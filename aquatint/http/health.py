"""Liveness, readiness that asks every part, and metrics."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import prometheus_client
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, RootModel

from aquatint.contract.errors import AquatintError

Check = Callable[[], Awaitable[None]]


class Liveness(BaseModel):
    """The answer of a process that runs."""

    status: Literal["ok"] = "ok"


class Readiness(RootModel[dict[str, str]]):
    """``ok`` or the reason it is not, by part."""


def health(checks: Mapping[str, Check], informative: Mapping[str, Check] | None = None) -> APIRouter:
    """Route ``/health/live``, ``/health/ready`` and ``/metrics``.

    A check raises ``AquatintError`` while its part is not ready, which makes ``/health/ready`` answer 503; the outcome
    of ``informative`` checks is shown but does not count.
    """
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    async def live() -> Liveness:
        """Answer as long as this process runs."""
        return Liveness()

    @router.get("/health/ready", responses={503: {"model": Readiness, "description": "A part is not ready"}})
    async def ready(response: Response) -> Readiness:
        """Ask every part whether it is ready."""
        needed = {name: await _outcome(check) for name, check in checks.items()}
        shown = {name: await _outcome(check) for name, check in (informative or {}).items()}
        response.status_code = 200 if set(needed.values()) <= {"ok"} else 503
        return Readiness({**needed, **shown})

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return Prometheus metrics as text."""
        return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return router


async def _outcome(check: Check) -> str:
    try:
        await check()
    except AquatintError as error:
        return f"{type(error).__name__}: {error}"
    return "ok"
