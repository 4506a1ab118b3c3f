"""What a turn tells the page while it runs, each a server-sent event named after its class."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class Start(BaseModel):
    """The user's message is stored; the answer begins."""

    name: Literal["start"] = "start"
    conversation: dict[str, Any]
    message: dict[str, Any]


class Token(BaseModel):
    """A piece of the answer's Markdown."""

    name: Literal["token"] = "token"
    text: str


class ToolCall(BaseModel):
    """A tool is called."""

    name: Literal["tool_call"] = "tool_call"
    id: str
    tool: str
    arguments: dict[str, Any]


class Progress(BaseModel):
    """How far a tool is; ``preview`` is a data URL of the picture so far."""

    name: Literal["progress"] = "progress"
    id: str
    progress: float
    total: float | None = None
    preview: str | None = None


class Image(BaseModel):
    """A finished picture, which becomes part of the answer when the turn ends."""

    name: Literal["image"] = "image"
    id: str
    image: dict[str, Any]


class Usage(BaseModel):
    """What the turn took."""

    name: Literal["usage"] = "usage"
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Error(BaseModel):
    """Why something failed: ``code`` is the error's name in the error table."""

    name: Literal["error"] = "error"
    code: str
    message: str
    retryable: bool


class Done(BaseModel):
    """The stored answer; always the last event."""

    name: Literal["done"] = "done"
    conversation: dict[str, Any]
    message: dict[str, Any]


Event = Start | Token | ToolCall | Progress | Image | Usage | Error | Done
