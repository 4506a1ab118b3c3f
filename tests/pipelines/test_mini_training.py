"""The optimizer, snapshots and the autoencoder's images."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from aquatint_pipelines.mini import captions, optimizers, recipe, snapshots, training, vae
from aquatint_pipelines.mini import dataset as datasets
from torch import Tensor

STAGE = recipe.StageRecipe(
    minutes=0.01,
    batch_size=1,
    learning_rate=0.01,
    warmup_steps=1,
    ema_decay=0.5,
    compile=False,
    clock="core",
    muon_learning_rate=0.05,
)


def loss_of(model: torch.nn.Module) -> Tensor:
    output: Tensor = model(torch.eye(4))
    return (output - torch.flip(torch.eye(4), (0,))).square().mean()


def run(folder: Path, snapshot: Path | None = None) -> training.Stage[torch.nn.Linear]:
    torch.manual_seed(0)
    stage = training.Stage(torch.nn.Linear(4, 4), STAGE, folder, mixed_precision="no", snapshot=snapshot)
    for _ in stage.steps("test"):
        stage.update(loss_of(stage.model))
    return stage


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5)])
def test_orthogonalised(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.linalg.svdvals(optimizers.orthogonalise(torch.randn(shape), dtype))
        assert 0.5 < float(values.min()) <= float(values.max()) < 1.3


def test_muon_trains_inner_weights_and_adamw_the_rest() -> None:
    model = torch.nn.Sequential()
    model.add_module("embed", torch.nn.Linear(4, 4))
    model.add_module("inner", torch.nn.Linear(4, 4))
    optimizer = optimizers.build(model, STAGE)
    shapes = {group["muon"]: [tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups}
    assert shapes == {True: [(4, 4)], False: [(4, 4), (4,), (4,)]}
    before = float(loss_of(model).detach())
    for _ in range(50):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(model))
        optimizer.step()
    assert float(loss_of(model).detach()) < 0.2 * before


def test_training_goes_on_from_a_snapshot(tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    assert first.progress.core_seconds >= 0.6
    first.log(held_out_psnr=1.0)
    assert json.loads((tmp_path / "first" / "log.jsonl").read_text())["held_out_psnr"] == 1.0
    first.save_snapshot(tmp_path / "snapshot.safetensors")
    second = training.Stage(
        torch.nn.Linear(4, 4),
        STAGE,
        tmp_path / "second",
        mixed_precision="no",
        snapshot=tmp_path / "snapshot.safetensors",
    )
    assert second.progress.step == first.progress.step
    assert second.progress.warm_steps == 0
    assert second.done == 1.0
    trained = first.finish().state_dict()
    for name, weight in second.model.state_dict().items():
        assert torch.allclose(weight, trained[name], atol=1e-3)


def test_precision_says_why() -> None:
    assert training.precision("no") == ("no", "the recipe says so")
    assert training.precision("auto")[0] in {"bf16", "no"}


def test_held_out_art_is_neither_used_nor_trained_on() -> None:
    names = [f"thing {i}" for i in range(40)]
    pixels = np.zeros((40, 128, 128, 4), np.uint8)
    pixels[..., 0] = np.arange(40)[:, None, None]
    dataset = datasets.EmojiDataset(names, ["A"] * 40, {n: [] for n in names}, dict.fromkeys(captions.STYLES, pixels))
    packaged = recipe.load("cpu128")
    subjects = recipe.SubjectsRecipe(groups=[], extra=names[:20])
    chosen = packaged.model_copy(
        update={"subjects": subjects, "vae": packaged.vae.model_copy(update={"held_out_one_in": 2})}
    )
    art = vae.Art.split(dataset, chosen, torch.device("cpu"))
    held_out, trained = (set(images[:, 0, 0, 0].tolist()) for images in (art.held_out, art.training))
    assert held_out
    assert min(held_out) >= 20
    assert not held_out & trained
    assert len(art.held_out) + len(art.training) == 80
    assert vae.training_images(art, chosen).shape == (8, 3, 64, 64)


def test_a_terminated_training_saves_and_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = training.Stage(torch.nn.Linear(4, 4), STAGE, tmp_path, mixed_precision="no")
    steps = stage.steps("test")
    next(steps)
    stage.update(loss_of(stage.model))
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        next(steps)
    again = training.Stage(torch.nn.Linear(4, 4), STAGE, tmp_path, mixed_precision="no")
    assert again.progress.step == 1
    assert torch.equal(again.model.weight, stage.model.weight)


def test_examinations_come_by_the_budget(tmp_path: Path) -> None:
    stage = training.Stage(
        torch.nn.Linear(4, 4),
        STAGE.model_copy(update={"evaluate_every_minutes": 0.004}),
        tmp_path,
        mixed_precision="no",
    )
    assert not stage.examination_due()
    stage.progress.core_seconds = 0.3
    assert stage.examination_due()
    assert not stage.examination_due()


def test_snapshots_are_published_with_their_cost(tmp_path: Path) -> None:
    stage = training.Stage(torch.nn.Linear(4, 4), STAGE, tmp_path / "run" / "vae_training", mixed_precision="no")
    stage.progress.step, stage.progress.core_seconds = 7, 90.0
    stage.log(held_out_psnr=27.123)
    stage.save()
    chosen = recipe.load("cpu128").model_copy(update={"snapshots": tmp_path / "published"})
    assert [path.name for path in snapshots.publish(chosen, tmp_path / "run")] == ["vae.safetensors"]
    card = (tmp_path / "published" / "README.md").read_text()
    assert "| vae | 7 | 1.5 | held out psnr 27.12 |" in card
    with pytest.raises(ValueError, match="no folder"):
        snapshots.publish(recipe.load("cpu"), tmp_path / "run")
