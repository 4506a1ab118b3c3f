"""An independent judge: a small classifier of subject, style and background, trained only on the original images.

Where the recipe has scenes it also names the arrangement (size or count) and the subject's colour.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from aquatint_pipelines.mini import scenes, vae
from aquatint_pipelines.mini.captions import (
    ARRANGEMENTS,
    BACKGROUNDS,
    STYLES,
    SUBJECT_COLOURS,
    Combination,
    default_caption,
)
from aquatint_pipelines.mini.dataset import EmojiDataset
from aquatint_pipelines.mini.recipe import Recipe
from aquatint_pipelines.mini.training import Stage

_CHANNELS = (32, 64, 128, 192)
_MAX_SHIFT = 8
# The heads in the order of the labels' columns; the last two only judge scenes.
_HEADS = ("subject", "style", "background", "arrangement", "colour")
_COLOURS = ("", *SUBJECT_COLOURS)
Generate = Callable[[list[str], list[int]], NDArray[np.uint8]]


class Judge(nn.Module):
    """Names the subject, style and background of UINT8 ``(n, h, w, 3)`` images."""

    def __init__(self, subjects: list[str], *, scenes: bool = False) -> None:
        super().__init__()
        self.subjects = subjects
        self.scenes = scenes
        widths = (3, *_CHANNELS)
        self.features = nn.Sequential(
            *(
                layer
                for before, after in itertools.pairwise(widths)
                for layer in (nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
            ),
            nn.Conv2d(_CHANNELS[-1], _CHANNELS[-1], 3, 1, 1),
            nn.ReLU(),
        )
        # Where a feature is matters for distinguishing shapes, so positions are pooled to 2x2, not to one.
        classes = (len(subjects), len(STYLES), len(BACKGROUNDS), len(ARRANGEMENTS), len(_COLOURS))
        heads = zip(_HEADS if scenes else _HEADS[:3], classes)
        self.heads = nn.ModuleDict({name: nn.Linear(4 * _CHANNELS[-1], count) for name, count in heads})

    def embed(self, images: Tensor) -> Tensor:
        """Compute what the heads see of float ``(n, 3, h, w)`` images in [-1, 1]: ``(n, features)``."""
        return F.adaptive_avg_pool2d(self.features(images), 2).flatten(1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the logits of each head for float ``(n, 3, h, w)`` images in [-1, 1]."""
        features = self.embed(images)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def look(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.int64]]:
        """Rank each head's class indices, the likeliest first, ``(n, classes)``."""
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return {name: logits.argsort(descending=True).numpy() for name, logits in self(tensor).items()}


@dataclass(frozen=True)
class Share:
    """A share of images with its 95 % Wilson interval."""

    right: int
    total: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and upper end (Wilson 1927)."""
        z, p, n = 1.96, self.value, self.total
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return centre - half, centre + half

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


Scores = dict[str, Share]


def train(dataset: EmojiDataset, recipe: Recipe, folder: Path) -> Judge:
    """Train on the recipe's training combinations, augmented, and save ``folder/judge``."""
    torch.manual_seed(recipe.seed + 1)
    subjects = dataset.select(recipe.subjects)
    combinations = scenes.combinations(subjects, recipe.scenes, held_out=False)
    judge = Judge(subjects.subjects, scenes=bool(recipe.scenes.arrangements))
    stage = Stage(judge, recipe.judge, folder / "judge_training", mixed_precision="no")
    rgba, which = _artworks(subjects, combinations)
    rgba, which = rgba.to(stage.device), which.to(stage.device)
    colours = torch.tensor(list(BACKGROUNDS.values()), device=stage.device)
    labels = _labels(combinations, subjects.subjects).to(stage.device)
    weights = _weights(combinations, recipe.scenes.share).to(stage.device)
    for _ in stage.steps("judge"):
        chosen = torch.multinomial(weights, recipe.judge.batch_size, replacement=True)
        targets = dict(zip(_HEADS, labels[chosen].unbind(1)))
        batch = _augment(rgba[which[chosen]], colours[targets["background"]], recipe.image_size)
        logits = stage.model(batch)
        stage.update(torch.stack([F.cross_entropy(logits[name], targets[name]) for name in logits]).sum())
    trained = stage.finish().cpu()
    save(trained, folder / "judge")
    return trained


def _artworks(dataset: EmojiDataset, combinations: list[Combination]) -> tuple[Tensor, Tensor]:
    """Return each different artwork once, UINT8 ``(m, 128, 128, 4)``, and which each combination shows, ``(n,)``."""
    on_white = [replace(c, background="white") for c in combinations]
    index = {c: i for i, c in enumerate(dict.fromkeys(on_white))}
    subjects = {subject: i for i, subject in enumerate(dataset.subjects)}
    artworks = [scenes.artwork(dataset.images[c.style][subjects[c.subject]], c) for c in index]
    return torch.from_numpy(np.stack(artworks)), torch.tensor([index[c] for c in on_white])


def _weights(combinations: list[Combination], scenes_share: float) -> Tensor:
    """Compute chances that give scenes their share, float ``(n,)``; all the same where there are none."""
    plain = sum(c.plain for c in combinations)
    if plain == len(combinations):
        return torch.ones(plain)
    other = scenes_share / (len(combinations) - plain)
    return torch.tensor([(1.0 - scenes_share) / plain if c.plain else other for c in combinations])


def _labels(combinations: list[Combination], subjects: list[str]) -> Tensor:
    """Return INT64 ``(n, 5)``: indices of the classes in the order of the heads."""
    index = {subject: i for i, subject in enumerate(subjects)}
    backgrounds = list(BACKGROUNDS)
    return torch.tensor(
        [
            (
                index[c.subject],
                STYLES.index(c.style),
                backgrounds.index(c.background),
                ARRANGEMENTS.index(c.arrangement),
                _COLOURS.index(c.colour),
            )
            for c in combinations
        ]
    )


def _augment(rgba: Tensor, background: Tensor, size: int) -> Tensor:
    """Shift, recolour, blur and add noise: a generator's faults must not be what the judge goes by."""
    shift = torch.randint(-_MAX_SHIFT, _MAX_SHIFT + 1, (2,)).tolist()
    jitter = torch.randint(-14, 15, background.shape, device=background.device)
    images = vae.compose(torch.roll(rgba, shift, dims=(1, 2)), (background + jitter).clamp(0, 255), size)
    if torch.rand(()) < 0.6:
        small = int(size * (0.4 + 0.6 * torch.rand(())))
        images = F.interpolate(images, (small, small), mode="area")
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
    gain = 1.0 + 0.15 * torch.randn(len(images), 3, 1, 1, device=images.device)
    return (images * gain + 0.08 * torch.randn_like(images)).clamp(-1.0, 1.0)


def save(judge: Judge, folder: Path) -> None:
    """Write weights and class names."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(judge, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(
        json.dumps({"subjects": judge.subjects, **({"scenes": True} if judge.scenes else {})}, indent=1) + "\n"
    )


def load(folder: Path) -> Judge:
    """Read what ``save`` wrote."""
    judge = Judge(**json.loads((folder / "config.json").read_text()))
    load_model(judge, str(folder / "model.safetensors"))
    return judge.eval()


def score(judge: Judge, combinations: list[Combination], images: NDArray[np.uint8]) -> Scores:
    """Count how often the judge names what an image should show."""
    truth = _labels(combinations, judge.subjects).numpy()
    ranked = judge.look(images)
    first = {name: ranked[name][:, 0] == truth[:, _HEADS.index(name)] for name in ranked}
    hits = {
        "background": first["background"],
        "style": first["style"],
        "subject": first["subject"],
        "subject_top5": (ranked["subject"][:, :5] == truth[:, :1]).any(axis=1),
        "all_three": first["background"] & first["style"] & first["subject"],
    }
    if judge.scenes:
        hits |= {"arrangement": first["arrangement"], "colour": first["colour"]}
        hits["all_five"] = hits["all_three"] & first["arrangement"] & first["colour"]
    return {name: Share(int(right.sum()), len(right)) for name, right in hits.items()}


def judge_real(judge: Judge, dataset: EmojiDataset, combinations: list[Combination], *, size: int) -> Scores:
    """Judge the original images of the combinations: the most a generator could reach."""
    return score(judge, combinations, scenes.images(dataset, combinations, size))


def judge_generated(
    judge: Judge, dataset: EmojiDataset, combinations: list[Combination], *, generate: Generate, batch_size: int = 16
) -> Scores:
    """Judge images generated from the combinations' prompts, seed ``i`` for prompt ``i``."""
    parts = []
    for start in tqdm(range(0, len(combinations), batch_size), desc="generate held-out prompts"):
        part = combinations[start : start + batch_size]
        parts.append(
            generate(
                [default_caption(c, dataset.aliases[c.subject]) for c in part], list(range(start, start + len(part)))
            )
        )
    return score(judge, combinations, np.concatenate(parts))


def held_out_plain(judge: Judge, dataset: EmojiDataset) -> list[Combination]:
    """List the held-out combinations of the judge's subjects, shown as they are."""
    known = set(judge.subjects)
    return [c for c in dataset.combinations(held_out=True) if c.subject in known]


def held_out_scenes(dataset: EmojiDataset, recipe: Recipe, count: int = 300) -> list[Combination]:
    """List at most ``count`` of the held-out scenes, evenly chosen and always the same."""
    subjects = dataset.select(recipe.subjects)
    every = [c for c in scenes.combinations(subjects, recipe.scenes, held_out=True) if not c.plain]
    return every[:: max(1, -(-len(every) // count))]


def as_json(scores: Scores) -> dict[str, dict[str, float]]:
    """Convert scores with their intervals, for a file."""
    return {
        name: {**asdict(share), "share": share.value, "low": share.interval[0], "high": share.interval[1]}
        for name, share in scores.items()
    }
