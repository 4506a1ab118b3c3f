import random
from pathlib import Path

import numpy as np
import pytest
import torch
from aquatint_pipelines.mini import captions, judge, recipe, ship, training
from aquatint_pipelines.mini import dataset as datasets
from aquatint_pipelines.mini.captions import Combination


@pytest.fixture
def dataset() -> datasets.EmojiDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 4), np.uint8)
    aliases: dict[str, list[str]] = {"fox": [], "red apple": ["apple"], "owl": ["hoot"]}
    images = dict.fromkeys(captions.STYLES, pixels)
    return datasets.EmojiDataset(list(aliases), ["A", "F", "A"], aliases, images)


def test_write_and_read(dataset: datasets.EmojiDataset, tmp_path: Path) -> None:
    datasets._write(dataset, tmp_path / "a.zip")
    datasets._write(dataset, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert datasets.read(tmp_path / "a.zip").content_hash == dataset.content_hash


def test_select(dataset: datasets.EmojiDataset) -> None:
    def subjects(**wanted: list[str]) -> list[str]:
        return dataset.select(recipe.SubjectsRecipe(**wanted)).subjects

    assert subjects(groups=["A"]) == ["fox", "owl"]
    assert subjects(groups=["A"], extra=["red apple"], exclude=["fox"]) == ["red apple", "owl"]
    with pytest.raises(ValueError, match="unicorn"):
        subjects(groups=[], extra=["unicorn"])


def test_held_out_combinations_are_fixed_and_disjoint(dataset: datasets.EmojiDataset) -> None:
    held_out, training_set = dataset.combinations(held_out=True), dataset.combinations(held_out=False)
    assert not set(held_out) & set(training_set)
    assert len(held_out) + len(training_set) == 3 * 2 * 10
    assert datasets.is_held_out(Combination("fox", "noto", "pink")) == (Combination("fox", "noto", "pink") in held_out)


def test_compose_puts_the_image_on_the_colour() -> None:
    rgba = np.zeros((1, 128, 128, 4), np.uint8)
    rgba[:, :64] = (255, 0, 0, 255)
    image = datasets.compose(rgba, np.array([[10, 20, 30]]), 64)[0]
    assert image[0, 0].tolist() == [255, 0, 0]
    assert image[63, 63].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("noun", "worded"), [("fox", "a fox"), ("owl", "an owl"), ("grapes", "grapes"), ("bus", "a bus")]
)
def test_articles(noun: str, worded: str) -> None:
    assert captions.with_article(noun) == worded


def test_captions_say_what_the_image_shows() -> None:
    rng = random.Random(0)
    for _ in range(300):
        combination = Combination("fox", rng.choice(captions.STYLES), rng.choice(list(captions.BACKGROUNDS)))
        caption = captions.random_caption(combination, [], rng).lower()
        assert "fox" in caption
        assert combination.style in caption or combination.style == "flat"
        assert combination.background in caption or combination.background == "white"


@pytest.mark.parametrize("name", ["cpu", "cpu128", "gpu"])
def test_recipes_are_valid(name: str) -> None:
    chosen = recipe.load(name)
    limit = {"cpu": 150, "cpu128": 1200, "gpu": 25}[name]
    assert chosen.vae.minutes + chosen.transformer.minutes + chosen.judge.minutes <= limit


def test_wilson_interval() -> None:
    low, high = judge.Share(8, 10).interval
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


def test_judge_scores_what_it_sees(dataset: datasets.EmojiDataset) -> None:
    torch.manual_seed(0)
    untrained = judge.Judge(dataset.subjects).eval()
    combinations = dataset.combinations(held_out=False)[:20]
    images = np.stack([dataset.image(c, 64) for c in combinations])
    ranked = untrained.look(images)
    agreeing = [
        Combination(
            dataset.subjects[ranked["subject"][i, 0]],
            captions.STYLES[ranked["style"][i, 0]],
            list(captions.BACKGROUNDS)[ranked["background"][i, 0]],
        )
        for i in range(20)
    ]
    assert judge.score(untrained, agreeing, images)["all_three"].value == 1.0


def test_training_stops_resumes_and_anneals(tmp_path: Path) -> None:
    stage_recipe = recipe.StageRecipe(
        minutes=0.01, batch_size=1, learning_rate=0.1, warmup_steps=1, ema_decay=0.5, compile=False
    )

    def run(minutes: float) -> training.Stage[torch.nn.Linear]:
        torch.manual_seed(0)
        stage = training.Stage(
            torch.nn.Linear(4, 1), stage_recipe.model_copy(update={"minutes": minutes}), tmp_path, mixed_precision="no"
        )
        for _ in stage.steps("test"):
            stage.update(stage.model(torch.ones(2, 4)).square().mean())
        return stage

    first = run(0.005)
    resumed = run(0.01)
    assert resumed.progress.step > first.progress.step
    assert resumed.done == 1.0
    assert resumed.optimizer.param_groups[0]["lr"] < 0.01
    assert float(resumed.finish()(torch.ones(1, 4)).detach().abs()) < 0.1


def test_pack_and_unpack(tmp_path: Path, mini_checkpoint: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "pipeline").symlink_to(mini_checkpoint)
    (run / "judge").symlink_to(mini_checkpoint.parent / "judge")
    pieces = ship.pack(run, tmp_path / "packed")
    assert all(piece.stat().st_size <= 16 << 20 for piece in pieces)
    ship.unpack(tmp_path / "packed", tmp_path / "again")
    weights = Path("transformer") / "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "again" / "pipeline" / weights).read_bytes() == (mini_checkpoint / weights).read_bytes()
    assert judge.load(tmp_path / "again" / "judge").subjects


def test_shipped_checkpoint_is_small_and_has_no_pickles(mini_checkpoint: Path) -> None:
    files = [path for path in mini_checkpoint.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 50 << 20
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".ckpt", ".pkl", ".pth"}]


@pytest.mark.slow
def test_the_dataset_builds_to_the_same_hash(tmp_path: Path, mini_checkpoint: Path) -> None:
    """From the pinned npm packages; the data card names the hash of the build that trained the shipped checkpoint."""
    built = datasets.build(tmp_path / "dataset.zip", tmp_path / "npm")
    assert built.content_hash in (mini_checkpoint.parent / "dataset" / "README.md").read_text()
    assert len(built.combinations(held_out=True)) >= 300
