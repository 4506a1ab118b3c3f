"""Kubeflow components: each only calls one plain function of this package, so all logic runs without Kubeflow too.

The image must hold the package; nothing is installed when a step starts.
"""

# KFP reads the annotations of component functions at run time, so they must not be postponed to strings.
import os
from collections.abc import Callable
from typing import Any

from kfp import dsl

# "python" must be in the name: that is how KFP's local runner tells Python images from others.
BASE_IMAGE = os.environ.get("AQUATINT_PIPELINES_IMAGE", "registry.example.com/aquatint/trainer-python:0.1.0")
# KFP publishes no types; a call of a component makes a task of the pipeline around it.
_component: Callable[[Callable[..., object]], Any] = dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)


@_component
def prepare_data(
    pictures: str, token: str, checkpoint: str, recipe: str, overrides: dict[str, Any], dataset: dsl.Output[dsl.Dataset]
) -> None:
    """Make a checked, captioned dataset from instance images, with the base model's class images."""
    from pathlib import Path

    from aquatint_pipelines import steps

    prepared = steps.prepare_data(
        pictures, token=token, checkpoint=checkpoint, recipe_name=recipe, overrides=overrides, out=Path(dataset.path)
    )
    dataset.metadata.update(
        instance=len(prepared.instance),
        classes=len(prepared.classes),
        dropped=len(prepared.dropped),
        content_hash=prepared.content_hash,
    )


@_component
def dreambooth(
    dataset: dsl.Input[dsl.Dataset],
    checkpoint: str,
    recipe: str,
    overrides: dict[str, Any],
    volume: str,
    fuse: bool,
    embedder: str,
    run: dsl.Output[dsl.Artifact],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Fine-tune; a step that was killed resumes from its state on the volume."""
    from pathlib import Path

    from aquatint_pipelines import steps

    outcome = steps.dreambooth(
        steps.FineTuning(Path(dataset.path), checkpoint, recipe, overrides),
        volume=volume,
        fuse=fuse,
        embedder=embedder,
        run=Path(run.path),
        model=Path(model.path),
    )
    metrics.log_metric("steps", outcome.steps)
    metrics.log_metric("seconds", outcome.seconds)
    if outcome.loss is not None:
        metrics.log_metric("loss", outcome.loss)
    if outcome.similarity is not None:
        metrics.log_metric("similarity", outcome.similarity)


@_component
def evaluate(
    dataset: dsl.Input[dsl.Dataset],
    run: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    checkpoint: str,
    recipe: str,
    overrides: dict[str, Any],
    embedder: str,
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Compare with the base model and show both; the gate is a step of its own, so this report is always there."""
    from pathlib import Path

    from aquatint_pipelines import steps

    tuning = steps.FineTuning(Path(dataset.path), checkpoint, recipe, overrides)
    evaluated = Path(evaluation.path)
    measured = steps.evaluate(tuning, Path(model.path), embedder=embedder, out=evaluated)
    metrics.log_metric("subject_similarity", measured.subject_similarity)
    metrics.log_metric("subject_gain", measured.subject_gain)
    metrics.log_metric("prior_drift", measured.prior_drift)
    steps.write_report(tuning.dataset, Path(run.path), evaluated=evaluated, repository=None, out=Path(report.path))


@_component
def check_gate(evaluation: dsl.Input[dsl.Artifact]) -> None:
    """Stop the pipeline if the tuned model must not be published."""
    from pathlib import Path

    from aquatint_pipelines import steps

    steps.check_gate(Path(evaluation.path))


@_component
def export_and_verify(
    model: dsl.Input[dsl.Model],
    name: str,
    target: str,
    dtype: str,
    repository: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Export to ONNX through the parity gate, as a Triton model repository."""
    from pathlib import Path

    from aquatint_pipelines import steps

    manifest = steps.export_and_verify(Path(model.path), name, target=target, dtype=dtype, out=Path(repository.path))
    metrics.log_metric("worst_component", max(manifest.parity["components"].values()))


@_component
def publish(
    dataset: dsl.Input[dsl.Dataset],
    run: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    repository: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    store: str,
    name: str,
    report: dsl.Output[dsl.HTML],
) -> int:
    """Upload as the model's next version; return its number."""
    from pathlib import Path

    from aquatint_pipelines import steps

    made = steps.Results(*(Path(each.path) for each in (model, repository, dataset, run, evaluation)))
    steps.write_report(
        made.dataset, made.run, evaluated=made.evaluated, repository=made.repository, out=Path(report.path)
    )
    return steps.publish(store, name, made)


@_component
def deploy_to_triton(version: int, store: str, name: str, live: str, prompts: list[str]) -> None:
    """Put a version into the running Triton without losing a request."""
    from pathlib import Path

    from aquatint_pipelines import steps

    steps.deploy_to_triton(store, name, version, live=Path(live), probes=prompts)


@_component
def deploy_to_kserve(
    version: int,
    store: str,
    name: str,
    namespace: str,
    service: str,
    canary_percent: int,
    timeout_s: float,
    url: str,
    prompts: list[str],
) -> None:
    """Point an InferenceService at a version; back to the old one if it does not become ready or cannot generate."""
    from aquatint_pipelines import steps

    rollout = steps.Rollout(canary_percent, timeout_s, url, prompts)
    steps.deploy_to_kserve(store, name, version, namespace=namespace, service=service, rollout=rollout)


@_component
def report_status(status: dsl.PipelineTaskFinalStatus) -> None:
    """Log how the pipeline ended: the exit handler."""
    from aquatint_pipelines import steps

    steps.report_status(
        {
            "state": status.state,
            "job": status.pipeline_job_resource_name,
            "task": status.pipeline_task_name,
            "error": status.error_message,
        }
    )


@_component
def generate_prompts(
    templates: dict[str, Any], words: dict[str, Any], count: int, seed: int, prompts: dsl.Output[dsl.Dataset]
) -> None:
    """Make a bucketed CSV of prompts from templates and words."""
    from pathlib import Path

    from aquatint_pipelines import steps

    steps.generate_prompts(templates, words, count=count, seed=seed, out=Path(prompts.path))


@_component
def draw_prompts(
    prompts: dsl.Input[dsl.Dataset], url: str, protocol: str, model: str, store: str, metrics: dsl.Output[dsl.Metrics]
) -> None:
    """Generate from a CSV of prompts with a running server; images and metadata go to a folder or bucket."""
    from aquatint_pipelines import steps

    counts = steps.generate_images(prompts.path, url=url, protocol=protocol, model=model, store=store)
    for name, count in counts.items():
        metrics.log_metric(name, count)


@_component
def build_mini_dataset(dataset: dsl.Output[dsl.Dataset], cache_dir: str = "/tmp/npm") -> str:
    """Build the emoji dataset; return its content hash."""
    from pathlib import Path

    from aquatint_pipelines.mini import dataset as datasets

    return datasets.build(Path(dataset.path), Path(cache_dir)).content_hash


@_component
def train_mini(dataset: dsl.Input[dsl.Dataset], run: dsl.Output[dsl.Model], recipe: str = "gpu") -> None:
    """Train VAE, transformer and judge by a recipe."""
    from pathlib import Path

    from aquatint_pipelines.mini.__main__ import train

    train(recipe, Path(dataset.path), Path(run.path))


@_component
def ship_mini(
    dataset: dsl.Input[dsl.Dataset], run: dsl.Input[dsl.Model], checkpoint: dsl.Output[dsl.Model], recipe: str = "gpu"
) -> None:
    """Write the trained run as a checkpoint with its scores and cards."""
    from pathlib import Path

    from aquatint_pipelines.mini.__main__ import ship

    ship(recipe, Path(dataset.path), Path(run.path), Path(checkpoint.path) / "mini")
