"""Rows of the database as the page sees them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aquatint_chat.store import Conversation, Message, Picture

IMAGES_PATH = "/api/v1/images"


def summary(conversation: Conversation) -> dict[str, Any]:
    """A line of the list of conversations."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "created_at": _iso(conversation.created_at),
        "updated_at": _iso(conversation.updated_at),
    }


def conversation(found: Conversation) -> dict[str, Any]:
    """A whole conversation."""
    return {**summary(found), "messages": [message(each) for each in found.messages]}


def message(found: Message) -> dict[str, Any]:
    """A message with its pictures."""
    return {
        "id": found.id,
        "role": found.role,
        "content": found.content,
        "status": found.status,
        "error": found.error,
        "tool_calls": found.tool_calls,
        "usage": found.usage,
        "created_at": _iso(found.created_at),
        "images": [picture(each) for each in found.images],
    }


def picture(found: Picture) -> dict[str, Any]:
    """A picture's facts; its bytes are at ``url``."""
    return {
        "id": found.id,
        "url": f"{IMAGES_PATH}/{found.id}",
        "conversation_id": found.conversation_id,
        "prompt": found.prompt,
        "seed": found.seed,
        "parameters": found.parameters,
    }


def markdown(found: Conversation) -> str:
    """A conversation to keep or to print; pictures by their prompts and seeds."""
    lines = [f"# {found.title}"]
    for each in found.messages:
        lines.append(f"**{'You' if each.role == 'user' else 'Aquatint'}:** {each.content}")
        lines += [f"![{image.prompt}]({IMAGES_PATH}/{image.id}) seed {image.seed}" for image in each.images]
    return "\n\n".join(lines) + "\n"


def _iso(moment: datetime) -> str:
    """With its offset, which SQLite forgets."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
