"""The chat's HTTP API under ``/api/v1``.

Annotations that name a router's own dependencies are evaluated at once, which is why this module has no deferred ones.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aquatint.contract.errors import AquatintError
from aquatint.contract.model_info import ModelInfo
from aquatint.http.auth import Caller, CallerOf
from aquatint.http.errors import ERROR_RESPONSES
from aquatint_chat import views
from aquatint_chat.events import ErrorEvent, Event, TurnEvent
from aquatint_chat.llm import LanguageModel
from aquatint_chat.settings import ChatSettings
from aquatint_chat.store import TITLE_CHARACTERS, ChatStore
from aquatint_chat.toolbox import Toolbox
from aquatint_chat.turn import TurnRequest, Turns

PREFIX = "/api/v1"
COMPLETIONS = f"{PREFIX}/chat/completions"
_IMMUTABLE = "private, max-age=31536000, immutable"

_Responses = dict[int | str, dict[str, Any]]
_TEXT = {"schema": {"type": "string"}}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
# A failure before the stream begins is JSON like any other. FastAPI would describe it with the stream's media type.
_FAILED = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}}
_COMPLETED: _Responses = {
    200: {"model": TurnEvent, "description": "The turn as server-sent events, each as described by the schema"},
    "default": {**_FAILED, "description": "The request failed"},
}
_EXPORTED: _Responses = {200: {"content": {"text/markdown": _TEXT}, "description": "The conversation as a file"}}
_FETCHED: _Responses = {200: {"content": {"image/*": _BYTES}, "description": "The image"}}


class Title(BaseModel):
    """A conversation's new title."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=1, max_length=TITLE_CHARACTERS, pattern=r"\S")


def chat_routes(turns: Turns, caller: CallerOf) -> APIRouter:
    """Route ``POST /chat/completions``: a turn as server-sent events."""
    router = APIRouter(prefix=PREFIX, tags=["chat"])

    @router.post("/chat/completions", response_class=EventSourceResponse, responses=_COMPLETED)
    async def completions(body: TurnRequest, who: Annotated[Caller, Depends(caller)]) -> AsyncIterator[ServerSentEvent]:
        """Run a turn and stream its events. Closing the connection stops it."""
        try:
            async with aclosing(turns.run(body, who.name)) as running:
                async for event in running:
                    yield _sent(event)
        except AquatintError as error:
            # The status is sent before the first event.
            failure = views.Failure(code=type(error).__name__, message=str(error), retryable=True)
            yield _sent(ErrorEvent(data=failure))

    return router


def _sent(event: Event) -> ServerSentEvent:
    return ServerSentEvent(event=event.event, data=event.data.model_dump())


def conversation_routes(store: ChatStore, caller: CallerOf) -> APIRouter:
    """Route ``/conversations``: list, read, rename, delete and export the caller's own."""
    router = APIRouter(prefix=f"{PREFIX}/conversations", tags=["conversations"], responses=ERROR_RESPONSES)
    Who = Annotated[Caller, Depends(caller)]

    @router.get("")
    async def listing(
        who: Who,
        query: Annotated[str, Query(description="Text in the title or a message.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> views.ConversationList:
        """List conversations, the most recent first."""
        found = await store.conversations(who.sees, query=query, limit=limit)
        return views.ConversationList(conversations=[views.summary(each) for each in found])

    @router.get("/{conversation_id}")
    async def read(conversation_id: str, who: Who) -> views.Conversation:
        """Read a conversation with its messages."""
        return views.conversation(await store.conversation(conversation_id, who.sees))

    @router.patch("/{conversation_id}")
    async def rename(conversation_id: str, body: Title, who: Who) -> views.ConversationSummary:
        """Give a conversation another title."""
        return views.summary(await store.rename(conversation_id, who.sees, body.title.strip()))

    @router.delete("/{conversation_id}", status_code=204)
    async def delete(conversation_id: str, who: Who) -> None:
        """Delete a conversation and its images for good."""
        await store.delete(conversation_id, who.sees)

    @router.get("/{conversation_id}/export", response_model=views.Conversation, responses=_EXPORTED)
    async def export(
        conversation_id: str,
        who: Who,
        form: Annotated[Literal["json", "markdown"], Query(alias="format")] = "json",
    ) -> Response:
        """Download a conversation as a file."""
        found = await store.conversation(conversation_id, who.sees)
        suffix = "json" if form == "json" else "md"
        headers = {"Content-Disposition": f'attachment; filename="conversation-{found.id}.{suffix}"'}
        if form == "json":
            return JSONResponse(views.conversation(found).model_dump(), headers=headers)
        return PlainTextResponse(views.markdown(found), headers=headers, media_type="text/markdown")

    return router


def image_routes(store: ChatStore, caller: CallerOf) -> APIRouter:
    """Route ``/images``: the images of all the caller's conversations."""
    router = APIRouter(prefix=views.IMAGES_PATH, tags=["images"], responses=ERROR_RESPONSES)
    Who = Annotated[Caller, Depends(caller)]

    @router.get("")
    async def gallery(
        who: Who,
        *,
        query: Annotated[str, Query(description="Words of the prompt.")] = "",
        cursor: int | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 60,
    ) -> views.ImagePage:
        """List images, newest first."""
        page = await store.images(who.sees, query=query, cursor=cursor, limit=limit)
        return views.ImagePage(images=[views.image(each) for each in page.images], next_cursor=page.next_cursor)

    @router.get("/{image_id}", response_class=Response, responses=_FETCHED)
    async def fetch(image_id: str) -> Response:
        """Return an image's bytes to anyone who knows its id."""
        found = await store.image(image_id)
        name = f"{found.id}.{found.media_type.removeprefix('image/')}"
        headers = {"Cache-Control": _IMMUTABLE, "Content-Disposition": f'inline; filename="{name}"'}
        return Response(found.data, media_type=found.media_type, headers=headers)

    @router.delete("/{image_id}", status_code=204)
    async def delete(image_id: str, who: Who) -> None:
        """Delete an image; the message it belongs to stays."""
        await store.delete_image(image_id, who.sees)

    return router


def status_routes(llm: LanguageModel, toolbox: Toolbox, settings: ChatSettings, *, caller: CallerOf) -> APIRouter:
    """Route ``GET /status``: the state of the parts behind the page."""
    router = APIRouter(prefix=PREFIX, tags=["status"], responses=ERROR_RESPONSES)

    @router.get("/status")
    async def status(_: Annotated[Caller, Depends(caller)]) -> views.Status:
        """Tell whether the language model and image generation are ready, and what the image models offer."""
        return views.Status(llm=await _llm_status(llm, settings), drawing=await _image_status(toolbox))

    return router


async def _llm_status(llm: LanguageModel, settings: ChatSettings) -> views.LlmStatus:
    try:
        model = await llm.model()
    except AquatintError as error:
        return views.LlmStatus(ready=False, model=None, detail=str(error))
    intent, why = settings.intent_for(model)
    return views.LlmStatus(ready=True, model=model, detail=f"{intent.value}: {why}")


async def _image_status(toolbox: Toolbox) -> views.ImageStatus:
    models: list[ModelInfo] = []
    try:
        await toolbox.check()
        if "list_models" in await toolbox.tools():
            models = _model_infos((await toolbox.structured("list_models")).get("models", []))
    except AquatintError as error:
        return views.ImageStatus(ready=False, detail=str(error), models=models)
    return views.ImageStatus(ready=True, detail="", models=models)


def _model_infos(listed: list[Any]) -> list[ModelInfo]:
    """Keep what describes a model as our own MCP server does; another one's tool may have the same name."""
    found = []
    for each in listed:
        try:
            found.append(ModelInfo.model_validate(each))
        except ValidationError:
            continue
    return found
