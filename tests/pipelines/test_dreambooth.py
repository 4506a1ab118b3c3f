"""Training, adapters and the gate, on the shipped mini checkpoint with a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aquatint_export import parity
from aquatint_pipelines.dreambooth import (
    class_images,
    data,
    evaluation,
    launch,
    recipe,
    report,
    training,
    weights,
    work,
)
from aquatint_pipelines.dreambooth.embedding import open_embedder, similarity
from aquatint_pipelines.folders import replace_folder, settle_folder
from aquatint_pipelines.generating import generate, load_pipeline
from aquatint_pipelines.sampling import Sampling
from PIL import Image
from safetensors.torch import load_file

from aquatint.contract.errors import EngineUnavailable, InvalidConfiguration, InvalidRequest, ModelRejected
from aquatint.repository.manifest import Manifest
from tests.conftest import CHECKPOINT, ROOT

PRIOR = {"prompts": ["a flat emoji of an owl on a green background"], "num_class_images": 2}
QUICK: dict[str, Any] = {
    "max_train_steps": 4,
    "batch_size": 1,
    "num_inference_steps": 2,
    "checkpoint_every_steps": 2,
    "lora_rank": 2,
    "prior": PRIOR,
    "validation": {"every_steps": 4, "prompts": ["a {token}"]},
    "gate": {"seeds": 1, "subject_prompts": ["a {token}"], "prior_prompts": ["a fox"]},
}


def manifest(measured: dict[str, Any]) -> Manifest:
    return Manifest(
        model="rhdog",
        engine="onnx",
        source="rhdog",
        licence="Apache-2.0",
        target="local",
        dtype="fp32",
        components={},
        parity=measured,
        tools={},
        files={},
    )


def quick(**changes: Any) -> recipe.DreamboothRecipe:
    return recipe.load("mini", **{**QUICK, **changes})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "dataset"
    chosen = quick()
    data.prepare(
        str(ROOT / "pipelines/models/rhdog"),
        folder,
        token="rhdog",
        resolution=64,
        instance_prompt=chosen.instance_prompt,
    )
    class_images.add(CHECKPOINT, folder, chosen)
    return folder


@pytest.mark.parametrize("name", recipe.NAMES)
def test_recipes(name: str) -> None:
    assert recipe.load(name).name == name


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("nothing", {}, "must be one of mini"),
        ("mini", {"learning_rate": -1}, "learning_rate"),
        ("mini", {"steps": 5}, "steps"),
    ],
)
def test_recipes_that_are_refused(name: str, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        recipe.load(name, **changes)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nresolution: 512\n")
    assert recipe.load(str(tmp_path / "mine.yaml")).resolution == 512
    (tmp_path / "mine.yaml").write_text("[")
    with pytest.raises(InvalidRequest, match="not a mapping"):
        recipe.load(str(tmp_path / "mine.yaml"))


def test_class_prompts_must_not_name_the_subject(dataset: Path) -> None:
    with pytest.raises(InvalidRequest, match="names the subject"):
        class_images.add(CHECKPOINT, dataset, quick(prior={**PRIOR, "prompts": ["a rhdog"]}))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora"},
        {"method": "lora", "train_text_encoders": False, "mixed_precision": "bf16", "gradient_accumulation_steps": 2},
        {"method": "full", "gradient_checkpointing": True, "ema_decay": None, "optimizer": "adamw8bit"},
        {"method": "full", "mixed_precision": "bf16", "caption_dropout": 0.5},
    ],
    ids=["lora", "lora-bf16-frozen-encoders", "full", "full-bf16"],
)
def test_training_changes_what_it_should(dataset: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    chosen = quick(**changes)
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    outcome = training.train(CHECKPOINT, dataset, recipe=chosen, run=run, embedder=open_embedder())
    assert (outcome.steps, outcome.stopped) == (4, "all steps done")
    assert outcome.similarity is not None
    assert json.loads((run / "outcome.json").read_text())["steps"] == 4
    assert (run / "validation" / "000004.png").is_file()
    assert list((run / "logs").rglob("events.out.tfevents.*"))
    weights.assemble(CHECKPOINT, run / "weights", out=tuned)
    for component, trained in (
        ("transformer/diffusion_pytorch_model", True),
        ("text_encoder/model", chosen.train_text_encoders),
        ("text_encoder_3/model", chosen.train_text_encoders and chosen.method == "full"),
        ("vae/diffusion_pytorch_model", False),
    ):
        before, after = (load_file(folder / f"{component}.safetensors") for folder in (CHECKPOINT, tuned))
        assert set(before) == set(after)
        assert all(before[name].dtype == after[name].dtype for name in before)
        assert any(not torch.equal(before[name], after[name]) for name in before) == trained, component
    assert (tuned / "aquatint.json").read_bytes() == (CHECKPOINT / "aquatint.json").read_bytes()


def test_a_killed_run_goes_on(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    real = training.Trainer._step

    def counted(self: training.Trainer) -> tuple[float, float]:
        steps.append(self._progress.step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(training.Trainer, "_step", counted)
    with pytest.raises(KeyboardInterrupt):
        training.train(CHECKPOINT, dataset, recipe=quick(), run=tmp_path)
    assert not (tmp_path / "weights").exists()
    assert training.train(CHECKPOINT, dataset, recipe=quick(), run=tmp_path).steps == 4
    assert steps == [0, 1, 2, 3, 2, 3]
    assert training.train(CHECKPOINT, dataset, recipe=quick(), run=tmp_path).loss is None


def test_a_kill_between_two_renames_loses_no_state(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for step in ("old", "new"):
        partial = tmp_path / "state.partial"
        partial.mkdir()
        (partial / "step").write_text(step)
        if step == "old":
            replace_folder(partial, state)
    state.rename(tmp_path / "state.stale")
    settle_folder(state)
    assert (state / "step").read_text() == "old"
    replace_folder(partial, state)
    settle_folder(state)
    assert (state / "step").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.slow
def test_two_processes_train_one_model(dataset: Path, tmp_path: Path) -> None:
    """As several GPUs do: batches of their own, averaged gradients, one stop, one set of files; then on from there."""
    chosen = quick(validation={"every_steps": 2, "prompts": ["a {token}"], "patience": 1})
    outcome = launch.train(CHECKPOINT, dataset, recipe=chosen, run=tmp_path / "run", embedder="judge", processes=2)
    assert outcome.steps in {2, 4}
    assert outcome.similarity is not None
    assert len(list((tmp_path / "run" / "state").glob("random_states_*.pkl"))) == 2
    weights.assemble(CHECKPOINT, tmp_path / "run" / "weights", out=tmp_path / "tuned")
    more = quick(max_train_steps=6, validation={"every_steps": 100, "prompts": ["a {token}"]})
    assert (
        launch.train(CHECKPOINT, dataset, recipe=more, run=tmp_path / "run", embedder="judge", processes=2).steps == 6
    )
    with pytest.raises(EngineUnavailable, match="2 processes failed"):
        launch.train(
            tmp_path / "nothing", dataset, recipe=chosen, run=tmp_path / "other", embedder="judge", processes=2
        )


def test_training_stops_early(dataset: Path, tmp_path: Path) -> None:
    def indifferent(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.ones((len(images), 1), np.float32)

    chosen = quick(max_train_steps=50, validation={"every_steps": 1, "prompts": ["a {token}"], "patience": 2})
    outcome = training.train(CHECKPOINT, dataset, recipe=chosen, run=tmp_path, embedder=indifferent)
    assert (outcome.steps, outcome.stopped) == (3, "no better in 2 validations")


def test_an_adapter_generates_as_the_fused_model_does(dataset: Path, tmp_path: Path) -> None:
    chosen = quick(learning_rate=0.05)
    training.train(CHECKPOINT, dataset, recipe=chosen, run=tmp_path / "run")
    weights.assemble(CHECKPOINT, tmp_path / "run" / "weights", out=tmp_path / "fused")
    weights.assemble(CHECKPOINT, tmp_path / "run" / "weights", out=tmp_path / "kept", fuse=False)
    separate = load_pipeline(tmp_path / "kept")
    separate.load_lora_weights(tmp_path / "kept" / "adapter")
    base, fused, adapted = (
        generate(pipeline, ["a rhdog"], seeds=[1], sampling=Sampling(4, 4.5)).astype(float)
        for pipeline in (load_pipeline(CHECKPOINT), load_pipeline(tmp_path / "fused"), separate)
    )
    assert np.abs(fused - base).mean() > 5.0
    assert np.abs(fused - adapted).mean() < 0.5
    full = tmp_path / "full"
    (full / "transformer").mkdir(parents=True)
    with pytest.raises(InvalidRequest, match="no adapter"):
        weights.assemble(CHECKPOINT, full, out=tmp_path / "x", fuse=False)


def test_class_images_are_needed_for_the_prior(tmp_path: Path) -> None:
    data.prepare(
        str(ROOT / "pipelines/models/rhdog"),
        tmp_path / "dataset",
        token="rhdog",
        resolution=64,
        instance_prompt="a {token}",
    )
    with pytest.raises(InvalidConfiguration, match="no class pictures"):
        training.Trainer(CHECKPOINT, tmp_path / "dataset", recipe=quick(), run=tmp_path / "run")


def test_runs_have_folders_of_their_own(dataset: Path, tmp_path: Path) -> None:
    folders = {
        work.run_folder(tmp_path, checkpoint=checkpoint, dataset=dataset, recipe=chosen)
        for checkpoint in ("mini", "other")
        for chosen in (quick(), quick(), quick(seed=1))
    }
    assert len(folders) == 4


def test_the_gate_and_the_report(dataset: Path, tmp_path: Path) -> None:
    chosen = quick()
    training.train(CHECKPOINT, dataset, recipe=chosen, run=tmp_path / "run", embedder=open_embedder())
    measured = evaluation.evaluate(
        CHECKPOINT,
        CHECKPOINT,
        dataset=dataset,
        recipe=chosen,
        embedder=open_embedder(),
        out=tmp_path / "evaluation",
    )
    assert evaluation.read(tmp_path / "evaluation") == measured
    # Nothing was learned: the model is its own base.
    assert measured.subject_gain == pytest.approx(0.0, abs=1e-6)
    assert measured.prior_drift == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ModelRejected, match=r"gained 0\.000, less than 0\.05"):
        evaluation.check_gate(measured)
    html = report.render(dataset, tmp_path / "run", evaluated=tmp_path / "evaluation", manifest=None)
    assert "Not published" in html
    assert html.count("data:image/png") == 5 + 1 + 2 * 2
    assert "http" not in html.replace("http://www.w3.org", "")
    assert "parity" not in html
    gate = parity.ParityReport("fp32", 1e-3, 35.0, components={"vae_decoder": 2e-6}, images_db={"a fox #0": 61.25})
    exported = report.render(
        dataset, tmp_path / "run", evaluated=tmp_path / "evaluation", manifest=manifest(gate.as_dict())
    )
    assert "2.0e-06" in exported
    assert "61.2 dB" in exported
    good = measured.model_copy(update={"subject_similarity": 0.9, "base_similarity": 0.5})
    evaluation.check_gate(good)
    drifted = good.model_copy(update={"prior_drift": 0.9})
    assert drifted.failures() == ["prior drift 0.900 is over 0.35"]


def test_the_embedder_knows_the_subject_from_others() -> None:
    embed = open_embedder()
    dataset_like = np.stack(
        [
            np.asarray(Image.open(path).convert("RGB").resize((64, 64)))
            for path in sorted((ROOT / "pipelines/models/rhdog").glob("*.png"))
        ]
    )
    fox = np.stack([np.asarray(Image.open(CHECKPOINT / "golden" / "0.png").convert("RGB"))])
    vectors = embed(dataset_like)
    assert similarity(vectors[:1], vectors[1:]) > similarity(embed(fox), vectors) + 0.1
