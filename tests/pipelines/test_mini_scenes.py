"""Sizes, counts and colours: worded as they are shown, and shown as they are worded."""

import random

import numpy as np
import pytest
import torch
from aquatint_pipelines.mini import captions, judge, recipe, scenes
from aquatint_pipelines.mini import dataset as datasets
from aquatint_pipelines.mini.captions import Combination
from numpy.typing import NDArray

SCENES = recipe.ScenesRecipe(
    arrangements=["small", "large", "two"], uncounted=["grapes"], recoloured=["red apple"], share=0.5
)


def disc(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:128, :128]
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[(rows - 64) ** 2 + (columns - 64) ** 2 < 50**2] = (*colour, 255)
    return rgba


@pytest.fixture
def dataset() -> datasets.EmojiDataset:
    pixels = np.stack([disc((220, 30, 30)), disc((90, 40, 160))])
    aliases: dict[str, list[str]] = {"red apple": ["apple"], "grapes": []}
    return datasets.EmojiDataset(list(aliases), ["F", "F"], aliases, dict.fromkeys(captions.STYLES, pixels))


@pytest.mark.parametrize(
    ("noun", "worded"),
    [
        ("fox", "foxes"),
        ("mouse", "mice"),
        ("wolf", "wolves"),
        ("butterfly", "butterflies"),
        ("monkey", "monkeys"),
        ("tropical fish", "tropical fish"),
        ("cup of coffee", "cups of coffee"),
        ("peach", "peaches"),
    ],
)
def test_plurals(noun: str, worded: str) -> None:
    assert captions.plural(noun) == worded


def test_captions_of_scenes() -> None:
    def worded(**changes: str) -> str:
        return captions.default_caption(Combination("red apple", "flat", "blue", **changes), ["apple"])

    assert worded() == "a flat emoji of a red apple on a blue background"
    assert worded(colour="green") == "a flat emoji of a green apple on a blue background"
    assert worded(arrangement="two") == "a flat emoji of two red apples on a blue background"
    assert worded(arrangement="small") == "a flat emoji of a small red apple on a blue background"


def test_random_captions_say_size_and_count() -> None:
    rng = random.Random(0)
    small = {captions.random_caption(Combination("fox", "flat", "white", "small"), [], rng).lower() for _ in range(200)}
    assert all(any(word in text for word in ("small", "little", "tiny")) for text in small)
    two = {captions.random_caption(Combination("fox", "flat", "white", "two"), [], rng).lower() for _ in range(200)}
    assert all("two foxes" in text and "a two" not in text for text in two)


def test_plain_combinations_come_first_and_keep_their_keys(dataset: datasets.EmojiDataset) -> None:
    every = scenes.combinations(dataset, SCENES, held_out=False)
    plain = dataset.combinations(held_out=False)
    assert every[: len(plain)] == plain
    assert Combination("fox", "flat", "red").key == "fox|flat|red"
    assert not [c for c in every if c.subject == "grapes" and (c.arrangement == "two" or c.colour)]
    assert not [c for c in every if c.colour == c.background]
    assert not set(every) & set(scenes.combinations(dataset, SCENES, held_out=True))
    assert scenes.combinations(dataset, recipe.ScenesRecipe(), held_out=False) == plain


@pytest.mark.parametrize(
    ("arrangement", "low", "high"), [("small", 0.25, 0.35), ("large", 1.25, 1.4), ("two", 0.45, 0.55)]
)
def test_arrangements_cover_what_they_say(arrangement: str, low: float, high: float) -> None:
    plain = disc((220, 30, 30))
    share = (scenes.arrange(plain, arrangement)[..., 3] > 128).sum() / (plain[..., 3] > 128).sum()
    assert low < share < high


@pytest.mark.parametrize("colour", captions.SUBJECT_COLOURS)
def test_a_recoloured_subject_has_the_named_colour(colour: str) -> None:
    centre = scenes.recolour(disc((220, 30, 30)), colour)[64, 64]
    assert np.abs(centre[:3].astype(int) - captions.BACKGROUNDS[colour]).max() <= 6
    assert centre[3] == 255


def test_the_judge_of_scenes_scores_them(dataset: datasets.EmojiDataset) -> None:
    torch.manual_seed(0)
    wanted = scenes.combinations(dataset, SCENES, held_out=False)[::7]
    looking = judge.Judge(dataset.subjects, scenes=True).eval()
    scored = judge.judge_real(looking, dataset, wanted, size=64)
    assert set(scored) >= {"all_three", "arrangement", "colour", "all_five"}
    assert scored["all_five"].total == len(wanted)
