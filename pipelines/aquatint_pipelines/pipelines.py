"""Kubeflow pipelines. ``aquatint-pipelines compile`` writes their YAML, ``aquatint-pipelines run`` runs one here.

On a cluster every step gets the volume ``aquatint-work`` at ``/work`` and S3's credentials of the secret
``aquatint-pipelines`` (``deploy/overlays/pipelines``), and ``HF_TOKEN`` of the secret ``huggingface`` if there is one;
the steps that compute get a GPU. Kubeflow's local runner ignores all of these.
"""

# KFP reads the annotations of pipeline functions at run time, so they must not be postponed to strings.
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from aquatint.contract.errors import InvalidRequest
from aquatint_pipelines import components

# KFP publishes no types; a call of a pipeline makes a task of the pipeline around it.
_pipeline: Callable[..., Callable[[Callable[..., object]], Any]] = dsl.pipeline
_CLAIM, _MOUNT = "aquatint-work", "/work"
_SECRET = "aquatint-pipelines"
_SECRET_KEYS = {key: key for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_S3_ENDPOINT")}
_GPUS = int(os.environ.get("AQUATINT_PIPELINES_GPUS", "1"))
_MINI = "pipelines/models/mini"
_PROBES = ["a flat emoji of a fox on a blue background"]


class Trained(NamedTuple):
    run: dsl.Artifact
    model: dsl.Model
    evaluation: dsl.Artifact
    report: dsl.HTML


def _plain(task: dsl.PipelineTask, memory: str = "4Gi") -> dsl.PipelineTask:
    """Set up a step that computes little: credentials, the volume, and the label that the NetworkPolicies let in."""
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "aquatint")
    kubernetes.mount_pvc(task, pvc_name=_CLAIM, mount_path=_MOUNT)
    kubernetes.use_secret_as_env(task, secret_name=_SECRET, secret_key_to_env=_SECRET_KEYS)
    # For hub checkpoints that need one; the secret may be missing.
    kubernetes.use_secret_as_env(
        task, secret_name="huggingface", secret_key_to_env={"HF_TOKEN": "HF_TOKEN"}, optional=True
    )
    return task.set_cpu_request("1").set_memory_request(memory)


def _on_gpu(task: dsl.PipelineTask, retries: int = 0) -> dsl.PipelineTask:
    """Set up a step that generates or trains; ``AQUATINT_PIPELINES_GPUS=0`` at compile time omits the GPU."""
    _plain(task, "48Gi")
    if retries:
        task.set_retry(num_retries=retries, backoff_duration="5s")
    return task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(_GPUS) if _GPUS else task


def _acting(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Set up a step that changes the world: never taken from the cache."""
    return _plain(task).set_caching_options(False)


@_pipeline(name="prepare-data", description="Instance images to a captioned dataset with class images.")
def prepare_data(
    pictures: str, token: str = "rhdog", checkpoint: str = _MINI, recipe: str = "mini", overrides: dict[str, Any] = {}
) -> dsl.Dataset:
    """Prepare a Dreambooth dataset.

    Args:
        pictures: Folder, zip, tar or s3:// prefix of the instance images.
        token: The rare token that will name the subject.
        checkpoint: The base model: folder, s3:// prefix or hub repository.
        recipe: mini, medium-24gb, medium-48gb, medium-80gb, or a YAML file of the image.
        overrides: Fields of the recipe to replace.
    """
    task = components.prepare_data(
        pictures=pictures, token=token, checkpoint=checkpoint, recipe=recipe, overrides=overrides
    )
    return _on_gpu(task).outputs["dataset"]


@_pipeline(name="dreambooth", description="Fine-tune on a prepared dataset, compare with the base, pass the gate.")
def dreambooth(
    dataset: dsl.Input[dsl.Dataset],
    checkpoint: str = _MINI,
    recipe: str = "mini",
    overrides: dict[str, Any] = {},
    volume: str = "/work/dreambooth",
    fuse: bool = True,
    embedder: str = "judge",
) -> Trained:
    """Fine-tune with Dreambooth, by LoRA or in full.

    Args:
        dataset: What prepare-data made.
        checkpoint: The base model: folder, s3:// prefix or hub repository.
        recipe: mini, medium-24gb, medium-48gb, medium-80gb, or a YAML file of the image.
        overrides: Fields of the recipe to replace.
        volume: Folder that outlives a killed step, where training state is kept; empty for none.
        fuse: Put the LoRA into the weights, as export needs it; else keep an adapter.
        embedder: judge (the bundled one), or a CLIP or DINO model of the hub or a folder.
    """
    trained = _on_gpu(
        components.dreambooth(
            dataset=dataset,
            checkpoint=checkpoint,
            recipe=recipe,
            overrides=overrides,
            volume=volume,
            fuse=fuse,
            embedder=embedder,
        ),
        # Its state is on the volume: a lost pod costs the steps since it was last saved.
        retries=2,
    )
    compared = _on_gpu(
        components.evaluate(
            dataset=dataset,
            run=trained.outputs["run"],
            model=trained.outputs["model"],
            checkpoint=checkpoint,
            recipe=recipe,
            overrides=overrides,
            embedder=embedder,
        )
    )
    _plain(components.check_gate(evaluation=compared.outputs["evaluation"]))
    return Trained(
        run=trained.outputs["run"],
        model=trained.outputs["model"],
        evaluation=compared.outputs["evaluation"],
        report=compared.outputs["report"],
    )


@_pipeline(name="export-and-verify", description="A checkpoint to a Triton model repository, through the parity gate.")
def export_and_verify(
    model: dsl.Input[dsl.Model], name: str = "mini", target: str = "ngc", dtype: str = "fp16"
) -> dsl.Model:
    """Export to ONNX and verify.

    Args:
        model: A diffusers checkpoint of the SD3 family.
        name: Name of the served model.
        target: ngc (Triton's own backends) or embedded (ours).
        dtype: fp32 or fp16.
    """
    task = components.export_and_verify(model=model, name=name, target=target, dtype=dtype)
    return _plain(task, "32Gi").outputs["repository"]


@_pipeline(name="publish", description="Upload checkpoint, repository and report as a model's next version.")
def publish(
    dataset: dsl.Input[dsl.Dataset],
    run: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    repository: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    store: str = "s3://models",
    name: str = "mini",
) -> int:
    """Publish to the registry.

    Args:
        dataset: What prepare-data made.
        run: The training run's records.
        model: The tuned checkpoint.
        repository: The exported model repository.
        evaluation: The comparison with the base model.
        store: The registry: s3://bucket/prefix or a folder of a volume.
        name: The model's name there.
    """
    task = components.publish(
        dataset=dataset,
        run=run,
        model=model,
        repository=repository,
        evaluation=evaluation,
        store=store,
        name=name,
    )
    version: int = _acting(task).outputs["Output"]
    return version


@_pipeline(
    name="dreambooth-to-production",
    description="Five images to a served model: prepare, fine-tune, gate, export, verify, publish, deploy.",
)
def dreambooth_to_production(
    pictures: str,
    token: str = "rhdog",
    checkpoint: str = _MINI,
    recipe: str = "mini",
    overrides: dict[str, Any] = {},
    volume: str = "/work/dreambooth",
    embedder: str = "judge",
    name: str = "mini",
    target: str = "ngc",
    dtype: str = "fp16",
    store: str = "s3://models",
    deploy: str = "kserve",
    live: str = "",
    prompts: list[str] = _PROBES,
    namespace: str = "aquatint",
    service: str = "aquatint",
    canary_percent: int = 0,
    ready_timeout_s: float = 1800.0,
    url: str = "aquatint-triton:8001",
) -> None:
    """Do everything in one run.

    Args:
        pictures: Folder, zip, tar or s3:// prefix of the instance images.
        token: The rare token that will name the subject.
        checkpoint: The base model: folder, s3:// prefix or hub repository.
        recipe: mini, medium-24gb, medium-48gb, medium-80gb, or a YAML file of the image.
        overrides: Fields of the recipe to replace.
        volume: Folder that outlives a killed step, where training state is kept; empty for none.
        embedder: judge (the bundled one), or a CLIP or DINO model of the hub or a folder.
        name: Name of the served model, and of its versions in the registry.
        target: ngc (Triton's own backends) or embedded (ours).
        dtype: fp32 or fp16.
        store: The registry: s3://bucket/prefix or a folder of a volume.
        deploy: kserve (an InferenceService), triton (the embedded server), or none.
        live: For triton: the model repository that it serves.
        prompts: What to generate with the new version before it stays.
        namespace: For kserve: where the InferenceService is.
        service: For kserve: its name.
        canary_percent: For kserve: share of the traffic until the prompts are generated, 0 for all at once.
        ready_timeout_s: For kserve: seconds until the old version is put back.
        url: For kserve: where to generate the prompts, host:port of gRPC (a canary's own address); empty to skip them.
    """
    ended = _plain(components.report_status())
    with dsl.ExitHandler(ended):
        prepared = prepare_data(
            pictures=pictures, token=token, checkpoint=checkpoint, recipe=recipe, overrides=overrides
        )
        trained = dreambooth(
            dataset=prepared.output,
            checkpoint=checkpoint,
            recipe=recipe,
            overrides=overrides,
            volume=volume,
            embedder=embedder,
        )
        exported = export_and_verify(model=trained.outputs["model"], name=name, target=target, dtype=dtype)
        published = publish(
            dataset=prepared.output,
            run=trained.outputs["run"],
            model=trained.outputs["model"],
            repository=exported.output,
            evaluation=trained.outputs["evaluation"],
            store=store,
            name=name,
        )
        with dsl.If(deploy == "triton"):
            _acting(
                components.deploy_to_triton(
                    version=published.output, store=store, name=name, live=live, prompts=prompts
                )
            )
        with dsl.Elif(deploy == "kserve"):
            _acting(
                components.deploy_to_kserve(
                    version=published.output,
                    store=store,
                    name=name,
                    namespace=namespace,
                    service=service,
                    canary_percent=canary_percent,
                    timeout_s=ready_timeout_s,
                    url=url,
                    prompts=prompts,
                )
            )


@_pipeline(name="prompt-list", description="A bucketed CSV of prompts to images with metadata in S3.")
def prompt_list(
    templates: dict[str, Any] = {"animals": ["a {style} emoji of a {animal} on a {colour} background"]},
    words: dict[str, Any] = {
        "style": ["flat", "noto"],
        "animal": ["fox", "dog", "cat", "panda"],
        "colour": ["blue", "green"],
    },
    count: int = 8,
    seed: int = 0,
    url: str = "aquatint-triton:8001",
    protocol: str = "grpc",
    model: str = "mini",
    store: str = "s3://pictures/prompts",
) -> None:
    """Generate what the served model makes of a list of prompts.

    Args:
        templates: Bucket to templates with {words}.
        words: Word to what may stand for it.
        count: How many different prompts.
        seed: Seed of their choice, and of the first image.
        url: The server, host:port.
        protocol: grpc or http.
        model: The served model.
        store: Where images go: s3://bucket/prefix or a folder.
    """
    made = _plain(components.generate_prompts(templates=templates, words=words, count=count, seed=seed))
    _acting(
        components.draw_prompts(prompts=made.outputs["prompts"], url=url, protocol=protocol, model=model, store=store)
    )


@_pipeline(name="mini-checkpoint", description="Emoji data to the judged mini checkpoint.")
def mini_checkpoint(recipe: str = "gpu") -> None:
    """Train the mini checkpoint.

    Args:
        recipe: gpu or cpu.
    """
    data = components.build_mini_dataset()
    trained = components.train_mini(dataset=data.outputs["dataset"], recipe=recipe)
    components.ship_mini(dataset=data.outputs["dataset"], run=trained.outputs["run"], recipe=recipe)


ALL = {
    each.pipeline_spec.pipeline_info.name: each
    for each in (
        prepare_data,
        dreambooth,
        export_and_verify,
        publish,
        dreambooth_to_production,
        prompt_list,
        mini_checkpoint,
    )
}


def find(name: str, parameters: Iterable[str]) -> Any:
    """Find the pipeline by that name. Raises ``InvalidRequest`` if there is none, or for an unknown parameter."""
    if name not in ALL:
        raise InvalidRequest(f"pipeline: must be one of {', '.join(ALL)}, is {name!r}")
    known = set(inspect.signature(ALL[name].pipeline_func).parameters)
    if unknown := set(parameters) - known:
        raise InvalidRequest(f"parameter: {', '.join(sorted(unknown))}: {name} has {', '.join(sorted(known))}")
    return ALL[name]
