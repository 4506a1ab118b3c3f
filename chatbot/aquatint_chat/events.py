"""The server-sent events of a turn: each has a name, and data that travel as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, RootModel

from aquatint_chat.views import ConversationSummary, Failure, Image, Message, ToolCall, Usage


class Exchange(BaseModel):
    """A conversation and the message just stored in it."""

    conversation: ConversationSummary
    message: Message


class Token(BaseModel):
    """A piece of the answer's Markdown."""

    text: str


class Progress(BaseModel):
    """How far the tool call ``id`` is; ``preview`` is a data URL of the image so far."""

    id: str
    progress: float
    total: float | None = None
    preview: str | None = None


class NewImage(BaseModel):
    """An image that the tool call ``id`` made; the answer keeps it when the turn ends."""

    id: str
    image: Image


class StartEvent(BaseModel):
    """The user's message is stored and the answer begins."""

    event: Literal["start"] = "start"
    data: Exchange


class TokenEvent(BaseModel):
    """The answer goes on."""

    event: Literal["token"] = "token"
    data: Token


class ToolCallEvent(BaseModel):
    """A tool is called."""

    event: Literal["tool_call"] = "tool_call"
    data: ToolCall


class ProgressEvent(BaseModel):
    """A tool reports progress."""

    event: Literal["progress"] = "progress"
    data: Progress


class ImageEvent(BaseModel):
    """An image is finished."""

    event: Literal["image"] = "image"
    data: NewImage


class UsageEvent(BaseModel):
    """The answer is complete, and this is what it cost."""

    event: Literal["usage"] = "usage"
    data: Usage


class ErrorEvent(BaseModel):
    """The turn failed."""

    event: Literal["error"] = "error"
    data: Failure


class DoneEvent(BaseModel):
    """The answer is stored; always the last event."""

    event: Literal["done"] = "done"
    data: Exchange


Event = StartEvent | TokenEvent | ToolCallEvent | ProgressEvent | ImageEvent | UsageEvent | ErrorEvent | DoneEvent


class TurnEvent(RootModel[Annotated[Event, Field(discriminator="event")]]):
    """One server-sent event: its name and its data."""
