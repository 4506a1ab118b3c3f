"""What wording alone reveals: which part of a message asks for an image, and of what. English only, no model.

This is enough for "draw a fox"; ``router`` asks the language model about everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from aquatint.contract.errors import InvalidRequest

COMMAND = "/imagine"
_PICTURE = r"(?:picture|image|drawing|painting|photo|illustration|sketch|emoji|icon|logo|sticker|portrait|wallpaper)s?"
_DRAW = r"(?:draw|paint|sketch|illustrate|render|imagine|depict)"
_MAKE = r"(?:make|create|generate|show|give|design|get|have|want|need|like|do|produce)"
_TELL = r"(?:tell|explain|say|write|describe|list|translate|summari[sz]e|count|calculate|what|why|how|who|where|when)"
_LEAD = (
    r"(?:(?:hey|hi|hello|good (?:morning|afternoon|evening)|ok|okay|so|well|"
    r"thanks|thank you|great|nice|cool|yes|please|pls|now|then|and|also|next|again|"
    r"kindly|just|can you|could you|would you|will you|can i|could i|may i|i'd|i would|i|you|want|would like|like|love|"
    r"need|to|see|let's|let us|for me|go and|try to|help me)\b[\s,!.]*)*"
)
# "draw a conclusion" and the like are talk.
_FIGURE_OF_SPEECH = r"(?!\s+(?:an?\s+|the\s+)?(?:conclusion|comparison|parallel|distinction|lesson|line between)s?\b)"
_DRAWS = re.compile(rf"{_LEAD}{_DRAW}\b{_FIGURE_OF_SPEECH}\s*(?:me\b|us\b|for me\b)?\s*,?\s*(?P<what>.+)", re.I | re.S)
_MAKES = re.compile(
    rf"{_LEAD}(?:{_MAKE}\s+)?(?:me\s+|us\s+)?(?P<what>(?:(?:an?|the|some|another|one|two|three|\d)\s+)?"
    rf"(?:[\w-]+\s+){{0,4}}?{_PICTURE}\b.*)",
    re.I | re.S,
)
_WRAPPER = re.compile(
    r"(?:an?\s+|the\s+|some\s+)?(?:new\s+)?(?:picture|image|drawing|painting|photo|sketch)s?\s+(?:of|with|showing)\s+",
    re.I,
)
_TRAILER = re.compile(
    r"[\s,]*(?:\b(?:please|pls|for me|thanks|thank you|and show it to me|and show me)\b[\s.!]*)+$", re.I
)
_POINTER = re.compile(
    r"(?:it|one|that|this|him|her|them|the same(?: one| thing)?|another(?: one)?|again|but|with|on|in|as)\b", re.I
)
_ANNOUNCED = re.compile(r"(?:it|one|this|that|something)\s*[:-]\s*", re.I)
_QUESTION = re.compile(rf"(?:{_TELL}|is|are|was|were|do|does|did|which|can|could|should|will|have|has)\b", re.I)
_CLAUSE = re.compile(
    rf"(?<=[.!?])\s+|,?\s+(?:and then|and|then)\s+(?=(?:also\s+|please\s+)*"
    rf"(?:{_DRAW}|{_MAKE}\s+(?:me\s+)?(?:an?\s+)?{_PICTURE}|{_TELL})\b)",
    re.I,
)
_RECALL = re.compile(
    r"\b(?:did i|have i|i (?:just )?(?:asked?|said|told|wanted?)|my (?:last|first|previous)|"
    r"you (?:just )?(?:draw|drew|drawn|made|painted)"
    r"|did you (?:just )?(?:draw|make|paint)|remember|last (?:picture|image|message|question))\b",
    re.I,
)
_REPEAT = re.compile(
    r"(?:please\s+)?(?:(?:again|another(?: one)?|one more(?: time)?|once more|more|retry|"
    r"try (?:it )?again|do (?:it|that) again|"
    r"draw (?:it|that|another|another one|one more)(?: again)?|redraw(?: it)?)[\s,.!]*(?:please)?)[\s.!?]*",
    re.I,
)
_FOLLOW_UP = re.compile(
    r"(?:(?:and|but|now|ok|okay|then|again|(?:the )?same(?: thing| one)?|instead|"
    r"this time|can you|could you|please)\b[\s,]*)*"
    r"(?:(?:make|turn|change|put|give|add|remove|use|replace|recolou?r|draw|paint|redraw)\b|(?:in|on|with|without|as|but)\s)"
    r"|(?:and )?now\b|(?:and )?(?:what|how) about\b",
    re.I,
)


class Wording(StrEnum):
    """What the wording of a clause asks for."""

    IMAGE = "image"
    TALK = "talk"
    UNCLEAR = "unclear"


def commanded(message: str) -> str | None:
    """Return the prompt of ``/imagine PROMPT``, or ``None``. Raises ``InvalidRequest`` if the prompt is missing."""
    command, _, prompt = message.strip().partition(" ")
    if command.lower() != COMMAND:
        return None
    if not prompt.strip():
        raise InvalidRequest(f"{COMMAND}: say what to generate, as in {COMMAND} a fox on a blue background")
    return prompt.strip()


def clauses(message: str) -> Iterator[str]:
    """Split a message into parts that may ask for different things."""
    for part in _CLAUSE.split(message.strip()):
        if part.strip(" ,.!?"):
            yield part.strip()


def read(clause: str) -> tuple[Wording, str]:
    """Return what a clause asks for and, if that is an image, its subject."""
    for pattern in (_DRAWS, _MAKES):
        found = pattern.fullmatch(clause)
        if found is not None and not _is_question(clause, pattern):
            return Wording.IMAGE, subject(found["what"])
    if _QUESTION.match(clause) and not asks_for_change(clause):
        return Wording.TALK, ""
    return Wording.UNCLEAR, ""


def _is_question(clause: str, pattern: re.Pattern[str]) -> bool:
    """Return whether a clause asks about images: "what is an emoji" does, but "can you draw a fox?" wants one."""
    return (
        pattern is _MAKES and re.match(rf"{_TELL}\b|(?:is|are|was|were|do|does|did|which)\b", clause, re.I) is not None
    )


def subject(text: str) -> str:
    """Strip the words around the subject: "a picture of a fox, please" becomes "a fox"."""
    text = _ANNOUNCED.sub("", _TRAILER.sub("", text.strip(" ,.!?")), count=1)
    text = _WRAPPER.sub("", text, count=1)
    return text.strip(" ,.!?\"'") or text.strip()


def points_back(subject: str) -> bool:
    """Return whether a subject refers to something named before: "it on a yellow background"."""
    return _POINTER.match(subject) is not None


def is_recall(message: str) -> bool:
    """Return whether a message asks about the conversation itself."""
    return _RECALL.search(message) is not None


def is_about_images(message: str) -> bool:
    """Return whether a question about the conversation is about its images."""
    return re.search(rf"\b(?:{_DRAW}|drew|drawn|painted|{_PICTURE})\b", message, re.I) is not None


def is_earlier(message: str) -> bool:
    """Return whether a question is about what came before the last message."""
    return re.search(r"\bbefore (?:that|it)|\bearlier\b|\bprevious(?:ly)?\b", message, re.I) is not None


def is_repeat(message: str) -> bool:
    """Return whether a message asks for the last image once more."""
    return _REPEAT.fullmatch(message.strip()) is not None


def asks_for_change(message: str) -> bool:
    """Return whether a message reads like a change to the last image: "now in purple"."""
    return len(message.split()) <= 14 and _FOLLOW_UP.match(message.strip()) is not None
