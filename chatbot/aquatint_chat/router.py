"""Decide between talking and generating, and write the prompt, for models too small to choose tools reliably.

Wording alone decides where it is clear. Elsewhere the model chooses between two words by constrained decoding with ten
examples, and it rewrites the last image's prompt for requests such as "now in purple". What it writes is checked
against the user's own words, which are used when in doubt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from openai.types.chat import ChatCompletionMessageParam

from aquatint.contract.errors import AquatintError
from aquatint_chat import wording
from aquatint_chat.llm import LanguageModel
from aquatint_chat.wording import Wording

_CHOOSE = (
    "Decide what the user wants: 'image' if they want a picture to be drawn or changed, 'talk' for everything else."
)
_CHOICES = (
    ("", "Hello there", "talk"),
    ("", "a cat under a tree", "image"),
    ("a boat", "make it red", "image"),
    ("a boat", "That looks great!", "talk"),
    ("", "I would like to see a mountain", "image"),
    ("", "I am so happy today", "talk"),
    ("a house on a hill", "with a snowy background", "image"),
    ("a house on a hill", "Nice work, thanks", "talk"),
    ("", "Give me two ideas for dinner", "talk"),
    ("a car", "and now a bus", "image"),
)
_REWRITE = "Describe the new picture after the change. Keep everything else of the old picture."
_REWRITES = (
    ("a boat on a white background", "make it red", "a red boat on a white background"),
    ("a cat on a red background", "now in yellow", "a yellow cat on a red background"),
    ("a bus on a green background", "and now a train", "a train on a green background"),
    ("a flat emoji of a cow", "draw it on a black background", "a flat emoji of a cow on a black background"),
    ("a spoon", "as a flat emoji", "a flat emoji of a spoon"),
    ("a duck on a white background", "make it a goose", "a goose on a white background"),
    ("a small tree", "can you make the tree big?", "a big tree"),
)
_TALK = "You are Aquatint, a friendly assistant that talks and draws pictures. Answer in one or two short sentences."
_TALKS = (
    (
        "What did I just ask you?\n(Just before, I said: paint a lemon on a table)",
        "You asked me to paint a lemon on a table.",
    ),
    ("Nice to meet you", "Nice to meet you too! What would you like to talk about, or see?"),
    (
        "What was my last message?\n(Just before, I said: a noto emoji of a tree)",
        "Your last message was: a noto emoji of a tree.",
    ),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
)
_TALK_EXCHANGES = 2
_BACKGROUND = re.compile(r"\b(?:an?|the)?\s*([\w-]+) background\b", re.I)
_BACKGROUND_IS = re.compile(r"\bbackground\s+(?:to\s+be\s+|to\s+|in\s+|into\s+)?([\w-]+)", re.I)
_ON_BACKGROUND = re.compile(r"\s*\b(?:on|with|in) (?:an?|the) [\w-]+ background\b", re.I)
# Words that name nothing visible.
_FILLERS = frozenset(
    re.findall(
        r"\w+",
        "a an and again the this that it its one of in on with as to be is me my for but now then so just same instead "
        "please can could would you make turn change put add give use draw paint redraw do background picture image "
        "try what about how let lets i want like ok okay new different another version style more also",
    )
)

_RECALL_WORDS = frozenset(
    re.findall(r"\w+", "asked said your last message was were wanted told picture just earlier yes")
)


@dataclass(frozen=True)
class Part:
    """One thing to do: generate ``prompt``, or answer ``text``."""

    text: str
    prompt: str | None = None


@dataclass(frozen=True)
class Past:
    """The conversation so far: the user's messages, each with its answer, and the last image's prompt."""

    exchanges: Sequence[tuple[str, str]] = ()
    last_prompt: str | None = None


class Router:
    """Plans what a message asks for. Without a language model (``model=None``) wording alone decides."""

    def __init__(self, llm: LanguageModel, model: str | None) -> None:
        self._llm = llm
        self._model = model

    async def plan(self, message: str, past: Past) -> list[Part]:
        """Split a message into at least one part, in order."""
        if (prompt := wording.commanded(message)) is not None:
            return [Part(message, prompt)]
        if past.last_prompt is not None and wording.is_repeat(message):
            return [Part(message, past.last_prompt)]
        readings = [(clause, *wording.read(clause)) for clause in wording.clauses(message)]
        generates = any(reading is Wording.IMAGE for _, reading, _ in readings)
        parts = []
        for clause, reading, subject in readings:
            if reading is Wording.IMAGE:
                parts.append(Part(clause, await self._prompt(clause, subject, past)))
            elif reading is Wording.TALK:
                parts.append(Part(clause))
            elif not generates and await self._wants_image(clause, past):
                is_change = wording.asks_for_change(clause)
                prompt = await self._prompt(clause, wording.subject(clause), past, is_change=is_change)
                parts.append(Part(clause, prompt))
        # Small talk beside a request for an image needs no answer; on its own it is answered as a whole.
        return parts if parts and (generates or any(part.prompt for part in parts)) else [Part(message)]

    async def _wants_image(self, clause: str, past: Past) -> bool:
        if self._model is None:
            return past.last_prompt is not None and wording.asks_for_change(clause)
        messages = _examples(_CHOOSE, [(_with_last_prompt(last, asked), answer) for last, asked, answer in _CHOICES])
        messages.append({"role": "user", "content": _with_last_prompt(past.last_prompt or "", clause)})
        return await self._llm.choose(self._model, messages, ["talk", "image"]) == "image"

    async def _prompt(self, clause: str, subject: str, past: Past, *, is_change: bool = False) -> str:
        """Return the user's own words, or the last prompt changed by them."""
        if past.last_prompt is None or not (wording.points_back(subject) or is_change):
            return subject
        return changed_background(past.last_prompt, clause) or await self._rewritten(past.last_prompt, clause)

    async def recall(self, message: str, past: Past) -> str | None:
        """Answer a question about the conversation itself; return ``None`` for every other message."""
        if self._model is None or not past.exchanges or not wording.is_recall(message):
            return None
        memory = recalled(message, past)
        messages = _examples(_TALK, _TALKS)
        messages.append({"role": "user", "content": f"{message}\n(Just before, I said: {memory})"})
        written = await self._llm.complete(self._model, messages, max_tokens=80, stop=["\n"])
        return (
            written if _words(memory) <= _words(written) <= _words(memory) | _RECALL_WORDS else f"You said: “{memory}”"
        )

    async def _rewritten(self, previous: str, change: str) -> str:
        kept = f"{previous}, {wording.subject(change)}"
        if self._model is None:
            return kept
        messages = _examples(_REWRITE, [(_change(old, asked), new) for old, asked, new in _REWRITES])
        messages.append({"role": "user", "content": _change(previous, change)})
        try:
            written = await self._llm.complete(self._model, messages, max_tokens=60, stop=["\n"])
        except AquatintError:
            return kept
        return written if is_faithful(written, previous, change) else kept


def talk_messages(message: str, past: Past) -> list[ChatCompletionMessageParam]:
    """Build the messages for the small model: examples, the latest exchanges, the message."""
    messages = _examples(_TALK, _TALKS)
    for asked, answer in past.exchanges[-_TALK_EXCHANGES:]:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": message}]


def recalled(message: str, past: Past) -> str:
    """Find what a question about the conversation refers to: one of the last messages, or the last image request."""
    said = [asked for asked, _ in past.exchanges]
    if wording.is_about_images(message):
        requests = [
            asked
            for asked in said
            if any(wording.read(clause)[0] is Wording.IMAGE for clause in wording.clauses(asked))
        ]
        return (requests or said)[-1]
    return said[-2] if wording.is_earlier(message) and len(said) > 1 else said[-1]


def changed_background(previous: str, change: str) -> str | None:
    """Put ``previous`` on the background that ``change`` names; return ``None`` if it names anything else."""
    named = (found[1].lower() for pattern in (_BACKGROUND_IS, _BACKGROUND) for found in pattern.finditer(change))
    colour = next((word for word in named if word not in _FILLERS), None)
    if colour is None or _words(change) - {colour} - _words(previous):
        return None
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{_ON_BACKGROUND.sub('', previous)} on {article} {colour} background"


def is_faithful(written: str, previous: str, change: str) -> bool:
    """Return whether a rewritten prompt has everything the change names and nothing that nobody said."""
    words = _words(written)
    return _words(change) <= words <= _words(previous) | _words(change)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w-]+", text.lower())) - _FILLERS


def _examples(system: str, pairs: Sequence[tuple[str, str]]) -> list[ChatCompletionMessageParam]:
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": system}]
    for asked, answer in pairs:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages


def _with_last_prompt(last: str, message: str) -> str:
    return f"[last picture: {last}] {message}" if last else f"[no picture yet] {message}"


def _change(previous: str, change: str) -> str:
    return f"Picture: {previous}\nChange: {change}"
