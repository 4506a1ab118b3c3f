"""The chat's HTTP API under ``/api/v1``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from aquatint.contract.errors import AquatintError
from aquatint.http.auth import Caller, CallerOf
from aquatint_chat import views
from aquatint_chat.llm import LanguageModel
from aquatint_chat.settings import ChatSettings
from aquatint_chat.store import TITLE_CHARACTERS, ChatStore
from aquatint_chat.toolbox import Toolbox
from aquatint_chat.turn import TurnRequest, Turns

PREFIX = "/api/v1"
COMPLETIONS = f"{PREFIX}/chat/completions"
_IMMUTABLE = "private, max-age=31536000, immutable"


class Title(BaseModel):
    """The body of a renaming."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=1, max_length=TITLE_CHARACTERS, pattern=r"\S")


def chat_routes(turns: Turns, caller: CallerOf) -> APIRouter:
    """``POST /chat/completions``: a turn as server-sent events."""
    router = APIRouter(prefix=PREFIX, tags=["chat"])

    @router.post("/chat/completions", response_class=EventSourceResponse)
    async def completions(body: TurnRequest, who: Caller = Depends(caller)) -> AsyncIterator[ServerSentEvent]:
        """``aquatint_chat.events`` of the turn. Closing the connection stops it."""
        try:
            async with aclosing(turns.run(body, who.name)) as running:
                async for event in running:
                    yield ServerSentEvent(event=event.name, data=event.model_dump(exclude={"name"}))
        except AquatintError as error:
            # The status is sent before the first event.
            failed = {"code": type(error).__name__, "message": str(error), "retryable": True}
            yield ServerSentEvent(event="error", data=failed)

    return router


def conversation_routes(store: ChatStore, caller: CallerOf) -> APIRouter:
    """The caller's conversations: list, read, rename, delete, export."""
    router = APIRouter(prefix=f"{PREFIX}/conversations", tags=["conversations"])

    @router.get("")
    async def listing(
        query: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 200, who: Caller = Depends(caller)
    ) -> dict[str, Any]:
        """Latest first; ``query`` is looked for in titles and messages."""
        return {"conversations": [views.summary(each) for each in await store.conversations(who.sees, query, limit)]}

    @router.get("/{conversation_id}")
    async def read(conversation_id: str, who: Caller = Depends(caller)) -> dict[str, Any]:
        """One conversation with its messages."""
        return views.conversation(await store.conversation(conversation_id, who.sees))

    @router.patch("/{conversation_id}")
    async def rename(conversation_id: str, body: Title, who: Caller = Depends(caller)) -> dict[str, Any]:
        """Another title."""
        return views.summary(await store.rename(conversation_id, who.sees, body.title.strip()))

    @router.delete("/{conversation_id}", status_code=204)
    async def delete(conversation_id: str, who: Caller = Depends(caller)) -> None:
        """Delete it with its pictures, for good."""
        await store.delete(conversation_id, who.sees)

    @router.get("/{conversation_id}/export")
    async def export(
        conversation_id: str,
        form: Annotated[Literal["json", "markdown"], Query(alias="format")] = "json",
        who: Caller = Depends(caller),
    ) -> Response:
        """The conversation as a file."""
        found = await store.conversation(conversation_id, who.sees)
        suffix = "json" if form == "json" else "md"
        headers = {"Content-Disposition": f'attachment; filename="conversation-{found.id}.{suffix}"'}
        if form == "json":
            return JSONResponse(views.conversation(found), headers=headers)
        return PlainTextResponse(views.markdown(found), headers=headers, media_type="text/markdown")

    return router


def image_routes(store: ChatStore, caller: CallerOf) -> APIRouter:
    """All pictures of the caller's conversations."""
    router = APIRouter(prefix=views.IMAGES_PATH, tags=["images"])

    @router.get("")
    async def gallery(
        query: str = "",
        cursor: int | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 60,
        who: Caller = Depends(caller),
    ) -> dict[str, Any]:
        """Newest first; ``query`` are words of the prompt."""
        page = await store.pictures(who.sees, query, cursor, limit)
        return {"images": [views.picture(each) for each in page.pictures], "next_cursor": page.next_cursor}

    @router.get("/{image_id}")
    async def fetch(image_id: str) -> Response:
        """The picture itself, for whoever knows its id."""
        found = await store.picture(image_id)
        name = f"{found.id}.{found.media_type.removeprefix('image/')}"
        headers = {"Cache-Control": _IMMUTABLE, "Content-Disposition": f'inline; filename="{name}"'}
        return Response(found.data, media_type=found.media_type, headers=headers)

    @router.delete("/{image_id}", status_code=204)
    async def delete(image_id: str, who: Caller = Depends(caller)) -> None:
        """Delete one picture; the words around it stay."""
        await store.delete_picture(image_id, who.sees)

    return router


def status_routes(llm: LanguageModel, toolbox: Toolbox, settings: ChatSettings, caller: CallerOf) -> APIRouter:
    """What the page shows of the parts behind it."""
    router = APIRouter(prefix=PREFIX, tags=["status"])

    @router.get("/status")
    async def status(who: Caller = Depends(caller)) -> dict[str, Any]:
        """Language model and drawing: ready or why not; the models that draw, with their sizes and defaults."""
        return {"llm": await _llm_status(llm, settings), "drawing": await _drawing_status(toolbox)}

    return router


async def _llm_status(llm: LanguageModel, settings: ChatSettings) -> dict[str, Any]:
    try:
        model = await llm.model()
    except AquatintError as error:
        return {"ready": False, "model": None, "detail": str(error)}
    intent, why = settings.intent_for(model)
    return {"ready": True, "model": model, "detail": f"{intent.value}: {why}"}


async def _drawing_status(toolbox: Toolbox) -> dict[str, Any]:
    models: list[dict[str, Any]] = []
    try:
        await toolbox.check()
        if "list_models" in await toolbox.tools():
            models = (await toolbox.structured("list_models")).get("models", [])
    except AquatintError as error:
        return {"ready": False, "detail": str(error), "models": models}
    return {"ready": True, "detail": "", "models": models}
