"""Checks in front of every request: its Host and Origin, and the size of its body. Plain ASGI middleware."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aquatint.contract.errors import Forbidden, TooLarge
from aquatint.http.errors import error_response


class HostOriginGuard:
    """Refuses requests for hosts that are not ours and from web pages that are not ours.

    A page a user happens to visit can send requests to loopback, and by DNS rebinding even read the responses; what it
    cannot do is choose the Host and Origin headers. Rebinding needs a name, so a Host that is an address passes:
    kubelet's probes and Prometheus call pods by theirs.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self._app = app
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or pass the request on."""
        if scope["type"] == "http" and (refusal := self._refusal(Headers(scope=scope))):
            await error_response(Forbidden(refusal))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> str | None:
        host = headers.get("host", "").lower()
        name = _name(host)
        if name not in self._hosts and not _is_address(name):
            return "this host name is not served here; AQUATINT_ALLOWED_HOSTS lists those that are"
        origin = headers.get("origin", "").lower()
        if not origin or origin in self._origins or urlsplit(origin).netloc == host:
            return None
        return "requests from this web page are not allowed; AQUATINT_CORS_ORIGINS lists those that are"


def _name(host: str) -> str:
    """Strip the port from a Host header."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class BodyLimit:
    """Refuses bodies over ``max_bytes``, whether announced or streamed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await error_response(self._error())(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._error()
            return message

        async def unless_too_large(message: Message) -> None:
            # Frameworks answer a failed read themselves; our response takes the place of theirs.
            if seen <= self._max_bytes:
                await send(message)

        with contextlib.suppress(TooLarge):
            await self._app(scope, counted, unless_too_large)
        if seen > self._max_bytes:
            await error_response(self._error())(scope, receive, send)

    def _error(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._max_bytes} bytes")
