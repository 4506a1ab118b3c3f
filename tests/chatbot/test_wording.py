"""What wording alone decides; the long list of ``benchmarks/intents.yaml`` runs with the real model end to end."""

from __future__ import annotations

import pytest
from aquatint_chat import wording
from aquatint_chat.router import changed_background, is_faithful
from aquatint_chat.wording import Wording


@pytest.mark.parametrize(
    ("clause", "subject"),
    [
        ("draw a fox on a blue background", "a fox on a blue background"),
        ("Please, could you draw me a red apple, thanks!", "a red apple"),
        ("DRAW A LION!!!", "A LION"),
        ("can i get a drawing of a bicycle", "a bicycle"),
        ("show me a noto emoji of a whale", "a noto emoji of a whale"),
        ("a picture of a turtle please", "a turtle"),
        ("I want an image of two cats", "two cats"),
    ],
)
def test_plain_wishes(clause: str, subject: str) -> None:
    assert wording.read(clause) == (Wording.IMAGE, subject)


@pytest.mark.parametrize(
    "clause",
    ["What is an emoji?", "Who painted the Mona Lisa?", "How can I draw better?", "is this a picture of a cat?"],
)
def test_questions_about_images_are_talk(clause: str) -> None:
    assert wording.read(clause)[0] is Wording.TALK


@pytest.mark.parametrize("clause", ["Let's draw a conclusion", "draw the line between art and craft", "now in purple"])
def test_the_rest_is_unclear(clause: str) -> None:
    assert wording.read(clause)[0] is Wording.UNCLEAR


def test_clauses() -> None:
    assert list(wording.clauses("Hello! Draw a bear, then tell me where bears live. ")) == [
        "Hello!",
        "Draw a bear",
        "tell me where bears live.",
    ]
    assert list(wording.clauses("a cat and a dog")) == ["a cat and a dog"]
    assert list(wording.clauses(" ... ")) == []


@pytest.mark.parametrize(
    ("previous", "change", "new"),
    [
        ("a fox on a blue background", "on a green background instead", "a fox on a green background"),
        ("a dog on a white background", "can you make the background orange?", "a dog on an orange background"),
        ("a rocket", "add a blue background", "a rocket on a blue background"),
        ("a rocket", "make it a cat on a blue background", None),
        ("a rocket", "now in purple", None),
    ],
)
def test_backgrounds(previous: str, change: str, new: str | None) -> None:
    assert changed_background(previous, change) == new


def test_faithful() -> None:
    assert is_faithful("a purple fox on a blue background", "a fox on a blue background", "now in purple")
    assert not is_faithful("a fox on a blue background", "a fox on a blue background", "now in purple")
    assert not is_faithful("a purple fox with a hat", "a fox", "now in purple")
