"""Captions: style x subject x background x wording, so that background and style compose freely.

A caption that names no style means ``flat`` and one that names no background means ``white``: the small model then has
one right answer for every caption instead of an average of several.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

STYLES = ("flat", "noto")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (20, 20, 24),
    "gray": (150, 150, 156),
    "red": (214, 40, 48),
    "orange": (245, 134, 32),
    "yellow": (252, 212, 54),
    "green": (52, 164, 82),
    "blue": (46, 104, 220),
    "purple": (132, 66, 178),
    "pink": (250, 158, 196),
}

_FULL = (
    "a {style} emoji of {a_subject} on a {background} background",
    "a {style} emoji of {a_subject} on {background}",
    "{subject}, {style} style, {background} background",
    "{subject} emoji in {style} style on a {background} background",
    "draw {a_subject} in {style} style on a {background} background",
    "a {background} background with {a_subject}, {style} style",
)
_NO_STYLE = (
    "{a_subject} on a {background} background",
    "draw {a_subject} on a {background} background",
    "{subject}, {background} background",
    "{subject} on {background}",
)
_NO_BACKGROUND = ("a {style} emoji of {a_subject}", "{subject}, {style} style", "{subject}, {style} emoji")
_BARE = ("{subject}", "{a_subject}", "an emoji of {a_subject}", "draw {a_subject}", "a picture of {a_subject}")


@dataclass(frozen=True)
class Combination:
    """One picture the model may be asked for."""

    subject: str
    style: str
    background: str

    @property
    def key(self) -> str:
        """Stable text form, used for hashing and in lists."""
        return f"{self.subject}|{self.style}|{self.background}"


def with_article(noun: str) -> str:
    """``fox`` -> ``a fox``, ``owl`` -> ``an owl``, ``grapes`` -> ``grapes``."""
    if noun.endswith("s") and not noun.endswith(("ss", "us", "is")):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def default_caption(combination: Combination) -> str:
    """The plain full wording: what the judge and the sample sheet ask for."""
    return _fill(_FULL[0], combination, combination.subject)


def random_caption(combination: Combination, aliases: list[str], rng: random.Random) -> str:
    """A random wording that is true of ``combination``; ``aliases`` may stand in for the subject's name."""
    wordings = list(_FULL)
    if combination.style == STYLES[0]:
        wordings += _NO_STYLE
    if combination.background == "white":
        wordings += _NO_BACKGROUND
    if combination.style == STYLES[0] and combination.background == "white":
        wordings += _BARE
    # The default wording is asked for most, so it is seen most.
    wording = _FULL[0] if rng.random() < 0.25 else rng.choice(wordings)
    noun = rng.choice(aliases) if aliases and rng.random() < 0.25 else combination.subject
    caption = _fill(wording, combination, noun)
    return caption[0].upper() + caption[1:] if rng.random() < 0.1 else caption


def _fill(wording: str, combination: Combination, noun: str) -> str:
    return wording.format(
        subject=noun,
        a_subject=with_article(noun),
        style=combination.style,
        background=combination.background,
    )


def corpus(subjects: dict[str, list[str]]) -> list[str]:
    """Every word a caption can hold, in sentences: what the tokenizers are trained on."""
    sentences = []
    for position, (subject, aliases) in enumerate(subjects.items()):
        for noun in (subject, *aliases):
            for index, wording in enumerate((*_FULL, *_NO_STYLE, *_NO_BACKGROUND, *_BARE)):
                style = STYLES[(position + index) % len(STYLES)]
                background = list(BACKGROUNDS)[(position + index) % len(BACKGROUNDS)]
                caption = _fill(wording, Combination(subject, style, background), noun)
                sentences += [caption, caption[0].upper() + caption[1:]]
    return sentences
