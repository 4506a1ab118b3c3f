"""Checkpoint to a complete Triton model repository: exported, checked, and published whole or not at all."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerBase

from aquatint.contract.errors import InvalidConfiguration
from aquatint.diffusion import served_model
from aquatint.diffusion.pipeline import Pipeline
from aquatint.diffusion.preview import fit_preview_factors
from aquatint.diffusion.served_model import ServedModel
from aquatint.repository import manifest as manifests
from aquatint_export import checkpoint as checkpoints
from aquatint_export import large, onnx_export, parity, serving_gate, streaming, tensorrt_build, triton_config
from aquatint_export.byol import copy_checkpoint
from aquatint_export.checkpoint import Checkpoint
from aquatint_export.components import Component, Port, components, wrap
from aquatint_export.parity import ParityReport
from aquatint_export.publish import check_replaceable, publish
from aquatint_export.runner import OnnxRunner
from aquatint_export.tensorrt_build import EngineBuilder, EngineOptions
from aquatint_export.triton_config import Target

_TEMPLATES = {"": "text_to_image", "_stream": "text_to_image_stream"}
_TOOLS = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers")
_VERSION = "1"


def export_checkpoint(
    source: str,
    out: Path,
    name: str = "mini",
    target: Target = "embedded",
    dtype: str = "fp32",
    max_batch_size: int = 32,
    progress: Callable[[str], None] = lambda stage: None,
    engine_options: EngineOptions | None = None,
    low_memory: bool = False,
    without: tuple[str, ...] = (),
    torch_transformer: bool = False,
) -> manifests.Manifest:
    """Export ``source`` and publish the model repository at ``out``, replacing what an earlier export put there.

    ``low_memory`` holds one component at a time and streams the weights of the large ones; whole pictures are then not
    compared. ``without`` drops text encoders. With ``engine_options`` the ONNX files, once past the gate, are built
    into TensorRT engines; with ``torch_transformer`` the transformer is served in torch. ``progress`` is told the name
    of every stage. Raises ``ModelRejected`` if the checkpoint cannot be used, ``out`` holds something else, or parity
    fails; ``out`` is then as it was.
    """
    check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    progress("load the checkpoint")
    checkpoint = checkpoints.load(source, low_memory, without)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        staging = Path(scratch) / "repository"
        manifest = _build(
            checkpoint, staging, name, target, dtype, max_batch_size, progress, engine_options, torch_transformer
        )
        progress("publish")
        publish(manifest, staging, out, Path(scratch))
    return manifest


def _build(
    checkpoint: Checkpoint,
    staging: Path,
    name: str,
    target: Target,
    dtype: str,
    max_batch_size: int,
    progress: Callable[[str], None],
    engine_options: EngineOptions | None,
    torch_transformer: bool,
) -> manifests.Manifest:
    # Before the long work: a missing library is told at once.
    builder = None if engine_options is None else _open_builder(engine_options, target, progress)
    progress("fit previews")
    factors = fit_preview_factors(checkpoint.encode_picture, checkpoint.pipeline.vae_scale_factor).tolist()
    served = checkpoint.served_model(name, max_batch_size, factors)
    _write_text_to_image(checkpoint, served, staging)

    parts = components(checkpoint)
    report = parity.new_report(dtype)
    paths = {}
    for component in parts:
        progress(f"export {component.name}")
        folder = staging / f"{name}_{component.name}"
        paths[component.name] = _export_checked(checkpoint, component, folder / _VERSION, dtype, report)
        config = triton_config.component_config(component, folder.name, max_batch_size, target)
        (folder / "config.pbtxt").write_text(config)

    expected = []
    if not checkpoint.apart:
        progress("parity gate")
        pipeline = Pipeline(served, staging / name / _VERSION, OnnxRunner(paths))
        expected = parity.reference_pictures(checkpoint, pipeline)
        parity.check_pictures(report, expected, pipeline)
        del pipeline
    parity.conclude(report)
    engines: dict[str, dict[str, object]] = {}
    if builder is not None:
        engines = _build_engines(builder, parts, served, staging, target, progress)
    if torch_transformer:
        engines = _put_torch(checkpoint, next(part for part in parts if part.name == "transformer"), served, staging)
    # Torch runs anywhere, TensorRT only on a GPU.
    if not checkpoint.apart and (torch_transformer or (engines and torch.cuda.is_available())):
        progress("parity gate through a server")
        report.engines = serving_gate.run(parts, expected, staging, served, _served_dtype(dtype, torch_transformer))

    return manifests.Manifest(
        model=name,
        source=checkpoint.source,
        licence=checkpoint.licence,
        target=target,
        dtype=dtype,
        components={part.name: {**_describe(part), **engines.get(part.name, {})} for part in parts},
        parity=report.as_dict(),
        tools={tool: metadata.version(tool) for tool in _TOOLS},
        files=manifests.digest_tree(staging),
    )


def _export_checked(
    checkpoint: Checkpoint, component: Component, folder: Path, dtype: str, report: ParityReport
) -> Path:
    """Export one component and compare it with torch in FP32 at once, so that no other is held meanwhile."""
    seed = torch.seed() % 2**31
    if component.name in checkpoint.apart:
        with large.loaded(checkpoint.folder, component.name) as module:
            real = dataclasses.replace(component, module=wrap(component.name, module, checkpoint.skip_layers))
            references = parity.reference_outputs(real, seed)
            if component.name != "transformer":
                # T5 cannot be traced on fake tensors; it is at least alone in memory.
                onnx_export.export(dataclasses.replace(real, module=_to(real.module, dtype)), folder)
            del real, module
        if component.name == "transformer":
            streaming.export(component, checkpoint.folder, folder, dtype, checkpoint.skip_layers)
    else:
        references = parity.reference_outputs(component, seed)
        module = component.module if dtype == "fp32" else _to(copy.deepcopy(component.module), dtype)
        onnx_export.export(dataclasses.replace(component, module=module), folder)
    path = folder / onnx_export.FILE_NAME
    parity.check_component(report, component, references, OnnxRunner({component.name: path}))
    return path


def _open_builder(options: EngineOptions, target: Target, progress: Callable[[str], None]) -> EngineBuilder:
    builder, why = tensorrt_build.open_builder(options)
    progress(f"build engines with {builder.library}: {why}")
    if target == "ngc" and builder.library != "tensorrt":
        raise InvalidConfiguration(
            "Triton's own TensorRT backend cannot load engines of tensorrt_rtx: export inside NVIDIA's image, or with "
            "--target embedded"
        )
    return builder


def _build_engines(
    builder: EngineBuilder,
    parts: list[Component],
    served: ServedModel,
    staging: Path,
    target: Target,
    progress: Callable[[str], None],
) -> dict[str, dict[str, object]]:
    """Put engines in the place of the ONNX files; returns what the manifest says of them."""
    described: dict[str, dict[str, object]] = {}
    for part in parts:
        folder = staging / f"{served.name}_{part.name}"
        shapes = tensorrt_build.profile(part, served)

        def told(stage: str, name: str = part.name) -> None:
            progress(f"{name}: {stage}")

        record = builder.build(folder / _VERSION / onnx_export.FILE_NAME, folder / _VERSION, shapes, told)
        for file in (folder / _VERSION).glob(f"{onnx_export.FILE_NAME}*"):
            file.unlink()
        config = triton_config.component_config(part, folder.name, served.max_batch_size, target, "tensorrt")
        (folder / "config.pbtxt").write_text(config)
        described[part.name] = {"engine": record.model_dump(exclude={"inputs", "outputs", "profile"})}
    return described


def _put_torch(
    checkpoint: Checkpoint, part: Component, served: ServedModel, staging: Path
) -> dict[str, dict[str, object]]:
    """Put the transformer's own weights in the place of its ONNX file; returns what the manifest says of them."""
    folder = staging / f"{served.name}_{part.name}"
    for file in (folder / _VERSION).glob(f"{onnx_export.FILE_NAME}*"):
        file.unlink()
    copy_checkpoint(checkpoint.folder / part.name, folder / _VERSION / part.name)
    config = triton_config.torch_config(part, folder.name, served.max_batch_size, checkpoint.skip_layers)
    (folder / "config.pbtxt").write_text(config)
    return {part.name: {"engine": {"library": "torch"}}}


def _served_dtype(dtype: str, torch_transformer: bool) -> str:
    """Whose bounds apply: on a GPU torch computes in bfloat16, whatever the other components have."""
    return "bf16" if torch_transformer and torch.cuda.is_available() else dtype


def _to(module: nn.Module, dtype: str) -> nn.Module:
    return module if dtype == "fp32" else module.half()


def _write_text_to_image(checkpoint: Checkpoint, served: ServedModel, staging: Path) -> None:
    """Both models get their own copy of all they read: Triton may fetch each on its own."""
    for suffix, template in _TEMPLATES.items():
        source = resources.files("aquatint_model_repository") / template
        folder = staging / f"{served.name}{suffix}"
        version = folder / _VERSION
        version.mkdir(parents=True)
        config = triton_config.text_to_image_config((source / "config.pbtxt").read_text(), served.info(), folder.name)
        (folder / "config.pbtxt").write_text(config)
        (version / served_model.FILE_NAME).write_text(served.model_dump_json(indent=1) + "\n")
        for encoder in served.text_encoders:
            if encoder.present:
                tokenizer = getattr(checkpoint.pipeline, encoder.tokenizer)
                _save_tokenizer(tokenizer, encoder.tokens, version / encoder.tokenizer)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, tokens: int, folder: Path) -> None:
    """``tokenizer.json`` with padding and truncation to ``tokens`` in it, as the pipeline would ask for."""
    fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    fast.enable_truncation(tokens)
    fast.enable_padding(length=tokens, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    folder.mkdir()
    fast.save(str(folder / "tokenizer.json"))


def _describe(component: Component) -> dict[str, object]:
    def ports(some: tuple[Port, ...]) -> dict[str, dict[str, object]]:
        return {p.name: {"dtype": str(p.dtype).removeprefix("torch."), "shape": ["batch", *p.shape]} for p in some}

    return {"inputs": ports(component.inputs), "outputs": ports(component.outputs)}
