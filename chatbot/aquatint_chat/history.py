"""A stored conversation in the form that language models read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from openai.types.chat import ChatCompletionMessageFunctionToolCallParam, ChatCompletionMessageParam

from aquatint_chat.router import Past
from aquatint_chat.settings import ChatSettings
from aquatint_chat.store import Message


def past_of(messages: Sequence[Message]) -> Past:
    """Collect the exchanges before the current message, and the prompt of the last image."""
    exchanges = [
        (asked.content, answer.content)
        for asked, answer in pairwise(messages)
        if asked.role == "user" and answer.role == "assistant"
    ]
    prompts = [image.prompt for message in messages for image in message.images]
    return Past(exchanges, prompts[-1] if prompts else None)


def tool_messages(messages: Sequence[Message], settings: ChatSettings) -> list[ChatCompletionMessageParam]:
    """Build the messages for a model that calls tools: the system prompt, then the latest ones with their tool calls.

    They are at most ``history_messages`` and about ``history_characters``, and always include the last, the user's.
    """
    recent: list[list[ChatCompletionMessageParam]] = []
    size = 0
    for message in reversed(messages[-settings.history_messages - 1 :]):
        entries = _entries(message)
        size += sum(len(str(entry)) for entry in entries)
        if recent and size > settings.history_characters:
            break
        recent.append(entries)
    # A conversation begins with the user.
    while recent and recent[-1][0]["role"] != "user":
        recent.pop()
    return [{"role": "system", "content": settings.system_prompt}, *(e for group in reversed(recent) for e in group)]


def _entries(message: Message) -> list[ChatCompletionMessageParam]:
    if message.role == "user":
        return [{"role": "user", "content": message.content}]
    entries: list[ChatCompletionMessageParam] = []
    if message.tool_calls:
        functions = [_function(call) for call in message.tool_calls]
        entries.append({"role": "assistant", "content": "", "tool_calls": functions})
        entries += [
            {"role": "tool", "tool_call_id": call["id"], "content": call["result"]} for call in message.tool_calls
        ]
    if message.content or not entries:
        entries.append({"role": "assistant", "content": message.content or f"[{message.status}]"})
    return entries


def _function(call: dict[str, Any]) -> ChatCompletionMessageFunctionToolCallParam:
    arguments = json.dumps(call["arguments"])
    return {"id": call["id"], "type": "function", "function": {"name": call["tool"], "arguments": arguments}}
