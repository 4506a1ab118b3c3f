"""The steps of the pipelines as plain functions over folders: what a Kubeflow component calls, or a notebook, or you.

Every step writes to folders of its own and leaves its inputs as they are. Knows nothing about Kubeflow.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquatint import registry
from aquatint.client import connect
from aquatint.contract.errors import ModelRejected
from aquatint.registry import Registry
from aquatint.repository import manifest as manifests
from aquatint.settings import ServerSettings, read_settings
from aquatint.storage import open_objects
from aquatint_pipelines import checkpoints, kserve, prompts
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
from aquatint_pipelines.dreambooth.data import Dataset
from aquatint_pipelines.dreambooth.embedding import open_embedder
from aquatint_pipelines.dreambooth.evaluation import Evaluation
from aquatint_pipelines.dreambooth.recipe import DreamboothRecipe
from aquatint_pipelines.dreambooth.training import Outcome

_log = logging.getLogger("aquatint.pipelines")

REPORT = "report.html"


@dataclass(frozen=True)
class FineTuning:
    """What is tuned, on which dataset, and by which recipe, with which of its fields replaced."""

    dataset: Path
    checkpoint: str
    recipe_name: str
    overrides: dict[str, Any]

    def recipe(self) -> DreamboothRecipe:
        """Load the recipe. Raises ``InvalidRequest``."""
        return recipe.load(self.recipe_name, **self.overrides)


@dataclass(frozen=True)
class Results:
    """The folders that a run leaves for publishing."""

    checkpoint: Path
    repository: Path
    dataset: Path
    run: Path
    evaluated: Path


@dataclass(frozen=True)
class Rollout:
    """How traffic moves to a version: ``canary_percent`` of it at first (0: all), the rest once ``probes`` pass."""

    canary_percent: int
    timeout_s: float
    url: str
    probes: list[str]


def prepare_data(
    source: str, *, token: str, checkpoint: str, recipe_name: str, overrides: dict[str, Any], out: Path
) -> Dataset:
    """Make a dataset folder from instance images (folder, zip, tar, ``s3://``) and the base model's class images."""
    chosen = recipe.load(recipe_name, **overrides)
    data.prepare(source, out, token=token, resolution=chosen.resolution, instance_prompt=chosen.instance_prompt)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = class_images.add(checkpoints.resolve(checkpoint, Path(scratch)), out, chosen)
    for dropped in prepared.dropped:
        _log.warning("left out %s: %s", dropped.source, dropped.reason)
    return prepared


def dreambooth(tuning: FineTuning, *, volume: str, fuse: bool, embedder: str, run: Path, model: Path) -> Outcome:
    """Train, and write the tuned checkpoint to ``model`` and the run's records to ``run``.

    The training state is kept under ``volume``; empty, it is kept in ``run``, and does not outlive the step.
    """
    chosen, dataset, checkpoint = tuning.recipe(), tuning.dataset, tuning.checkpoint
    folder = run
    if volume:
        folder = work.run_folder(Path(volume), checkpoint=checkpoint, dataset=dataset, recipe=chosen)
    with tempfile.TemporaryDirectory() as scratch:
        base = checkpoints.resolve(checkpoint, Path(scratch))
        outcome = launch.train(base, dataset, recipe=chosen, run=folder, embedder=embedder)
        weights.assemble(base, folder / training.WEIGHTS, out=model, fuse=fuse)
    if folder != run:
        shutil.copytree(folder, run, ignore=shutil.ignore_patterns("state*"), dirs_exist_ok=True)
    return outcome


def evaluate(tuning: FineTuning, tuned: Path, *, embedder: str, out: Path) -> Evaluation:
    """Compare the tuned checkpoint with its base. Does not judge: ``check_gate`` does."""
    with tempfile.TemporaryDirectory() as scratch:
        return evaluation.evaluate(
            checkpoints.resolve(tuning.checkpoint, Path(scratch)),
            tuned,
            dataset=tuning.dataset,
            recipe=tuning.recipe(),
            embedder=open_embedder(embedder),
            out=out,
        )


def check_gate(evaluated: Path) -> None:
    """Raise ``ModelRejected`` if the evaluation does not pass."""
    evaluation.check_gate(evaluation.read(evaluated))


def export_and_verify(checkpoint: Path, name: str, *, target: str, dtype: str, out: Path) -> manifests.Manifest:
    """Run ``aquatint export`` in a process of its own, which returns its memory. Raises ``ModelRejected``."""
    command = [sys.executable, "-m", "aquatint.cli.app", "export", str(checkpoint), "--out", str(out)]
    command += ["--name", name, "--target", target, "--dtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ModelRejected(f"the export failed: {done.stderr.strip().splitlines()[-1]}")
    _log.info("%s", done.stdout.strip())
    return manifests.verify(out)


def write_report(dataset: Path, run: Path, *, evaluated: Path, repository: Path | None, out: Path) -> None:
    """Write the HTML report; with ``repository``, also the export's parity."""
    manifest = None if repository is None else manifests.read(repository)
    out.write_text(report.render(dataset, run, evaluated=evaluated, manifest=manifest))


def publish(store: str, name: str, results: Results) -> int:
    """Upload checkpoint, model repository, manifest and report as the next version; return its number."""
    measured, described = evaluation.read(results.evaluated), data.read(results.dataset)
    manifest = manifests.verify(results.repository)
    facts = {
        "token": described.token,
        "dataset": described.content_hash,
        "source": manifest.source,
        "subject_similarity": round(measured.subject_similarity, 4),
        "subject_gain": round(measured.subject_gain, 4),
        "prior_drift": round(measured.prior_drift, 4),
        "parity": max(manifest.parity["components"].values()),
    }
    files = {
        **registry.files_under(results.checkpoint, "checkpoint/"),
        **registry.files_under(results.repository, f"{registry.REPOSITORY}/"),
        "dataset.json": results.dataset / data.MANIFEST,
    }
    with tempfile.TemporaryDirectory() as scratch:
        files[REPORT] = Path(scratch) / REPORT
        write_report(
            results.dataset,
            results.run,
            evaluated=results.evaluated,
            repository=results.repository,
            out=files[REPORT],
        )
        return _open(store, name).publish(files, facts).version


def deploy_to_triton(store: str, name: str, version: int, *, live: Path, probes: list[str]) -> None:
    """Put a version into the embedded server that serves ``live``, without losing a request."""
    with registry.embedded(live, read_settings(ServerSettings)) as server:
        registry.deploy(_open(store, name), version, server, prompts=probes)


def deploy_to_kserve(store: str, name: str, version: int, *, namespace: str, service: str, rollout: Rollout) -> None:
    """Point an InferenceService at a version, at first with a share of the traffic if one is given (0: all).

    Once it is ready the ``probes`` are generated at the ``url`` (gRPC, host:port); if they fail the old version
    returns. Without a ``url`` nothing is generated, and a canary keeps its share until somebody decides.
    """
    opened = _open(store, name)

    def trial() -> None:
        with connect(url=rollout.url, protocol="grpc", model=name) as client:
            registry.try_prompts(client, rollout.probes, version=version)

    address = f"{store.rstrip('/')}/{opened.prefix(version)}{registry.REPOSITORY}"
    target = kserve.InferenceService(kserve.connect(), namespace, service)
    target.deploy(
        address,
        canary_percent=rollout.canary_percent or None,
        timeout_s=rollout.timeout_s,
        trial=trial if rollout.url else None,
    )
    if rollout.url or not rollout.canary_percent:
        opened.promote(version)


def generate_prompts(
    templates: dict[str, list[str]], words: dict[str, list[str]], *, count: int, seed: int, out: Path
) -> None:
    """Write a CSV of prompts."""
    out.write_text(prompts.generate_list(templates, words, count=count, seed=seed))


def generate_images(source: str, *, url: str, protocol: str, model: str, store: str) -> dict[str, int]:
    """Generate a CSV of prompts with a running server into a folder or bucket; count what became of the rows."""
    rows = prompts.read_list(prompts.read_source(source))
    with connect(url=url, protocol=protocol, model=model) as client:
        return prompts.generate_images(client, open_objects(store), rows)


def report_status(status: dict[str, Any]) -> None:
    """Log how a pipeline ended: what the exit handler calls, whether it failed or not."""
    _log.warning("pipeline %s", json.dumps(status))


def _open(store: str, name: str) -> Registry:
    return Registry(open_objects(store), name)
