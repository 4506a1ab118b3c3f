"""What the API answers with, made from the rows of the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, JsonValue

from aquatint.contract.model_info import ModelInfo
from aquatint_chat import store

IMAGES_PATH = "/api/v1/images"


class Image(BaseModel):
    """A generated image, whose bytes are at ``url``; ``parameters`` are what the MCP server reported."""

    id: str
    url: str
    conversation_id: str
    prompt: str
    seed: int | None
    parameters: dict[str, JsonValue]


class ImagePage(BaseModel):
    """A page of images, newest first. ``next_cursor`` continues it."""

    images: list[Image]
    next_cursor: int | None


class ToolCall(BaseModel):
    """A call of a tool."""

    id: str
    tool: str
    arguments: dict[str, JsonValue]


class FinishedToolCall(ToolCall):
    """A call and the text that the language model got as its result."""

    result: str


class Usage(BaseModel):
    """What a turn cost."""

    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Failure(BaseModel):
    """Why something failed. ``code`` is the error's name in the error table."""

    code: str
    message: str
    retryable: bool


class Message(BaseModel):
    """A message with its images. ``created_at`` is in ISO 8601."""

    id: int
    role: Literal["user", "assistant"]
    content: str
    status: Literal["complete", "stopped", "failed"]
    error: Failure | None
    tool_calls: list[FinishedToolCall]
    usage: Usage | None
    created_at: str
    images: list[Image]


class ConversationSummary(BaseModel):
    """An entry in the list of conversations. Times are in ISO 8601."""

    id: str
    title: str
    created_at: str
    updated_at: str


class Conversation(ConversationSummary):
    """A conversation with all its messages."""

    messages: list[Message]


class ConversationList(BaseModel):
    """Conversations, the most recent first."""

    conversations: list[ConversationSummary]


class LlmStatus(BaseModel):
    """The language model; ``detail`` says what decides between talking and generating, or why it is not ready."""

    ready: bool
    model: str | None
    detail: str


class ImageStatus(BaseModel):
    """Image generation: its models, or in ``detail`` why it is not ready."""

    ready: bool
    detail: str
    models: list[ModelInfo]


class Status(BaseModel):
    """The state of the parts behind the page."""

    llm: LlmStatus
    drawing: ImageStatus


def summary(found: store.Conversation) -> ConversationSummary:
    """Show a conversation without its messages."""
    return ConversationSummary(
        id=found.id,
        title=found.title,
        created_at=_iso(found.created_at),
        updated_at=_iso(found.updated_at),
    )


def conversation(found: store.Conversation) -> Conversation:
    """Show a whole conversation."""
    return Conversation(**summary(found).model_dump(), messages=[message(each) for each in found.messages])


def message(found: store.Message) -> Message:
    """Show a message with its images."""
    return Message.model_validate(
        {
            "id": found.id,
            "role": found.role,
            "content": found.content,
            "status": found.status,
            "error": found.error,
            "tool_calls": found.tool_calls,
            "usage": found.usage,
            "created_at": _iso(found.created_at),
            "images": [image(each) for each in found.images],
        }
    )


def image(found: store.Image) -> Image:
    """Show an image without its bytes."""
    return Image(
        id=found.id,
        url=f"{IMAGES_PATH}/{found.id}",
        conversation_id=found.conversation_id,
        prompt=found.prompt,
        seed=found.seed,
        parameters=found.parameters,
    )


def markdown(found: store.Conversation) -> str:
    """Write a conversation as Markdown, to keep or to print; images appear with their prompts and seeds."""
    lines = [f"# {found.title}"]
    for each in found.messages:
        lines.append(f"**{'You' if each.role == 'user' else 'Aquatint'}:** {each.content}")
        lines += [f"![{one.prompt}]({IMAGES_PATH}/{one.id}) seed {one.seed}" for one in each.images]
    return "\n\n".join(lines) + "\n"


def _iso(moment: datetime) -> str:
    """Format a time with its offset, which SQLite does not keep."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
