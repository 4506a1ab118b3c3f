"""A language model for tests: an OpenAI-compatible ASGI app with scripted replies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse


@dataclass(frozen=True)
class Reply:
    """One reply: text, tool calls as ``(name, JSON arguments)``, or a failure with an HTTP status."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    status: int = 200


@dataclass
class FakeLlm:
    """Answers with ``replies`` in order, then with ``default``.

    ``requests`` holds the bodies it received. ``gate``, if given, is awaited after every word of a stream; ``active``
    counts the streams under way.
    """

    model: str = "fake-llm"
    replies: list[Reply] = field(default_factory=list)
    default: Reply = Reply("I hear you.")
    requests: list[dict[str, Any]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    active: int = 0

    def app(self) -> FastAPI:
        """Make the ASGI app; OpenAI clients use its ``/v1``."""
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": [{"id": self.model, "object": "model", "created": 0, "owned_by": "x"}]}

        @app.post("/v1/chat/completions")
        async def completions(request: Request) -> Response:
            body = await request.json()
            self.requests.append(body)
            reply = self.replies.pop(0) if self.replies else self.default
            if reply.status != 200:
                return JSONResponse({"error": {"message": "told to fail", "type": "x"}}, reply.status)
            if body.get("stream"):
                return StreamingResponse(self._stream(reply), media_type="text/event-stream")
            message = {"role": "assistant", "content": reply.text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return JSONResponse(self._envelope("chat.completion", [choice]))

        return app

    def _envelope(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {"id": "x", "object": kind, "created": 0, "model": self.model, "choices": choices, **more}

    async def _stream(self, reply: Reply) -> AsyncIterator[str]:
        self.active += 1
        try:
            for word in reply.text.split(" ") if reply.text else []:
                yield self._chunk({"content": f"{word} "})
                if self.gate is not None:
                    await self.gate.wait()
            for index, (name, arguments) in enumerate(reply.calls):
                begun = {"index": index, "id": f"call_{index}", "type": "function"}
                half = len(arguments) // 2
                yield self._chunk(
                    {"tool_calls": [{**begun, "function": {"name": name, "arguments": arguments[:half]}}]}
                )
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments[half:]}}]})
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            yield f"data: {json.dumps(self._envelope('chat.completion.chunk', [], usage=usage))}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.active -= 1

    def _chunk(self, delta: dict[str, Any]) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        return f"data: {json.dumps(self._envelope('chat.completion.chunk', [choice]))}\n\n"
