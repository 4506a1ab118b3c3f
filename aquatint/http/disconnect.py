"""Stops the work for clients that disconnect: plain ASGI middleware."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CancelOnDisconnect:
    """Cancels the handling of a request under ``prefixes`` when its client disconnects.

    Frameworks notice a disconnect only while they stream a response; generating takes long before there is one.
    """

    def __init__(self, app: ASGIApp, prefixes: Sequence[str]) -> None:
        self._app = app
        self._prefixes = tuple(prefixes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and watch its connection."""
        if scope["type"] != "http" or not scope["path"].startswith(self._prefixes):
            await self._app(scope, receive, send)
            return
        messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        handling = asyncio.ensure_future(self._app(scope, messages.get, send))

        async def pump() -> None:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    handling.cancel()
                    return
                await messages.put(message)

        watching = asyncio.ensure_future(pump())
        try:
            await asyncio.wait({handling, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done() and (error := watching.exception()) is not None:
                raise error
            # A cancelled handler has nobody to answer.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(handling)
        finally:
            watching.cancel()
            handling.cancel()
            await asyncio.gather(watching, handling, return_exceptions=True)
