"""Captions: style x subject x background x wording, so that background and style compose freely.

A caption that names no style means ``flat`` and one that names no background means ``white``: the small model then has
one right answer for every caption instead of an average of several.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

STYLES = ("flat", "noto")
ARRANGEMENTS = ("", "small", "large", "two")
SUBJECT_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
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


_SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big", "huge")}
_IRREGULAR_PLURALS = {
    "mouse": "mice",
    "wolf": "wolves",
    "deer": "deer",
    "fish": "fish",
    "tomato": "tomatoes",
    "potato": "potatoes",
    "mango": "mangoes",
    "loaf": "loaves",
    "leaf": "leaves",
    "scarf": "scarves",
}


@dataclass(frozen=True)
class Combination:
    """One image the model may be asked for."""

    subject: str
    style: str
    background: str
    arrangement: str = ""
    colour: str = ""

    @property
    def key(self) -> str:
        """A stable text form, used for hashing and in lists."""
        plain = f"{self.subject}|{self.style}|{self.background}"
        return plain if self.plain else f"{plain}|{self.arrangement}|{self.colour}"

    @property
    def plain(self) -> bool:
        """Whether it shows the artwork as it is: one, of its own size and colour."""
        return not self.arrangement and not self.colour


def with_article(noun: str) -> str:
    """Add the article: ``fox`` -> ``a fox``, ``owl`` -> ``an owl``; ``grapes`` and ``two deer`` have none."""
    if noun.startswith("two "):
        return noun
    if noun.endswith("s") and not noun.endswith(("ss", "us", "is")):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """Form the plural: ``fox`` -> ``foxes``, ``mouse`` -> ``mice``, ``cup of coffee`` -> ``cups of coffee``."""
    head, joint, rest = noun.partition(" of ")
    before, _, last = head.rpartition(" ")
    return f"{before} {_plural_word(last)}".strip() + joint + rest


def _plural_word(word: str) -> str:
    if word in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[word]
    if word.endswith(("s", "x", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def phrase(combination: Combination, noun: str, size_word: str | None = None) -> str:
    """Describe the noun with its colour, size and count: ``blue car``, ``small fox``, ``two foxes``."""
    words = f"{combination.colour} {noun}".strip()
    if combination.arrangement == "two":
        return f"two {plural(words)}"
    return f"{size_word or combination.arrangement} {words}".strip()


def default_caption(combination: Combination, aliases: Sequence[str] = ()) -> str:
    """Return the plain full wording: what the judge and the sample sheet ask for.

    ``aliases`` may stand in for a name with a colour in it: a red apple that is blue is a "blue apple".
    """
    return _fill(_FULL[0], combination, phrase(combination, _nouns(combination, aliases)[0]))


def _nouns(combination: Combination, aliases: Sequence[str]) -> list[str]:
    """List the subject's names that go with the combination's colour, the usual one first."""
    nouns = [combination.subject, *aliases]
    if not combination.colour:
        return nouns
    return [noun for noun in nouns if not set(noun.split()) & set(SUBJECT_COLOURS)] or nouns


def random_caption(combination: Combination, aliases: list[str], rng: random.Random) -> str:
    """Choose a random wording that is true of ``combination``; ``aliases`` may stand in for the subject's name."""
    wordings = list(_FULL)
    if combination.style == STYLES[0]:
        wordings += _NO_STYLE
    if combination.background == "white":
        wordings += _NO_BACKGROUND
    if combination.style == STYLES[0] and combination.background == "white":
        wordings += _BARE
    # The default wording is asked for most, so it is seen most.
    wording = _FULL[0] if rng.random() < 0.25 else rng.choice(wordings)
    usual, *others = _nouns(combination, aliases)
    noun = rng.choice(others) if others and rng.random() < 0.25 else usual
    size_words = _SIZE_WORDS.get(combination.arrangement)
    caption = _fill(wording, combination, phrase(combination, noun, rng.choice(size_words) if size_words else None))
    return caption[0].upper() + caption[1:] if rng.random() < 0.1 else caption


def _fill(wording: str, combination: Combination, noun: str) -> str:
    return wording.format(
        subject=noun,
        a_subject=with_article(noun),
        style=combination.style,
        background=combination.background,
    )


def _scene_sentences(subjects: dict[str, list[str]]) -> list[str]:
    sizes = [word for choices in _SIZE_WORDS.values() for word in choices]
    sentences = []
    for position, subject in enumerate(subjects):
        colour = SUBJECT_COLOURS[position % len(SUBJECT_COLOURS)]
        sentences.append(f"an emoji of two {plural(subject)}")
        sentences.append(f"an emoji of a {sizes[position % len(sizes)]} {subject}")
        sentences.append(f"an emoji of a {colour} {subject}")
    return sentences


def corpus(subjects: dict[str, list[str]], *, scenes: bool = False) -> list[str]:
    """Put every word a caption can hold into sentences: what the tokenizers are trained on.

    ``scenes`` adds the words for sizes, counts and colours of subjects.
    """
    sentences = _scene_sentences(subjects) if scenes else []
    for position, (subject, aliases) in enumerate(subjects.items()):
        for noun in (subject, *aliases):
            for index, wording in enumerate((*_FULL, *_NO_STYLE, *_NO_BACKGROUND, *_BARE)):
                style = STYLES[(position + index) % len(STYLES)]
                background = list(BACKGROUNDS)[(position + index) % len(BACKGROUNDS)]
                caption = _fill(wording, Combination(subject, style, background), noun)
                sentences += [caption, caption[0].upper() + caption[1:]]
    return sentences
