"""``aquatint export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aquatint.cli import extras
from aquatint.cli.terminal import ERR, OUT, clean_errors


def add(app: typer.Typer) -> None:
    """Add the commands of this component."""
    app.command()(export)


class Target(StrEnum):
    """Where an exported repository will run."""

    EMBEDDED = "embedded"
    NGC = "ngc"


class ExportEngine(StrEnum):
    """What will run the exported model."""

    ONNX = "onnx"
    TENSORRT = "tensorrt"
    TORCH = "torch"
    DIFFUSERS = "diffusers"


class Dtype(StrEnum):
    """Precision of exported weights."""

    FP32 = "fp32"
    FP16 = "fp16"


def export(
    checkpoint: Annotated[str, typer.Argument(help="A diffusers folder, or a hub id (token from HF_TOKEN).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model repository to write.")],
    name: Annotated[str, typer.Option(help="Name of the served model.")] = "mini",
    target: Annotated[Target, typer.Option(help="embedded: our onnx backend; ngc: Triton's own.")] = Target.EMBEDDED,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the weights.")] = Dtype.FP32,
    max_batch_size: Annotated[int, typer.Option(min=2, help="Most rows of one denoiser batch.")] = 32,
    engine: Annotated[
        ExportEngine, typer.Option(help="tensorrt: built from ONNX; torch: compiled transformer; diffusers: as it is.")
    ] = ExportEngine.ONNX,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Hold one component at a time; compares components, not pictures.")
    ] = False,
    drop: Annotated[
        list[str] | None, typer.Option(help="Leave out a text encoder, like text_encoder_3 (T5); repeatable.")
    ] = None,
    refit: Annotated[bool, typer.Option("--refit", help="tensorrt: weights can be replaced later.")] = False,
    weight_streaming: Annotated[
        bool, typer.Option("--weight-streaming", help="tensorrt: weights may stay in host memory.")
    ] = False,
    workspace_gib: Annotated[float | None, typer.Option(min=0.0, help="tensorrt: limit of scratch memory.")] = None,
    timing_cache: Annotated[Path | None, typer.Option(help="tensorrt: a file that speeds up later builds.")] = None,
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="tensorrt_rtx: a GPU generation to build for, like SM89; repeatable.")
    ] = None,
) -> None:
    """Export a checkpoint and publish a Triton model repository, if it passes the parity gate."""
    with extras.needs("export", "aquatint export"):
        # Needs torch, which only this command uses.
        from aquatint_export import EngineOptions, export_checkpoint, publish_pipeline  # noqa: PLC0415
    with clean_errors(), ERR.status("starting") as status:
        if engine is ExportEngine.DIFFUSERS:
            publish_pipeline(checkpoint, out, name, status.update)
            OUT.print(f"{out}  drawn by diffusers itself, no parity to check", soft_wrap=True)
            return
        workspace_bytes = None if workspace_gib is None else int(workspace_gib * 2**30)
        options = EngineOptions(refit, weight_streaming, workspace_bytes, timing_cache, tuple(compute_capability or ()))
        written = export_checkpoint(
            checkpoint,
            out,
            name,
            target.value,
            dtype.value,
            max_batch_size,
            status.update,
            options if engine is ExportEngine.TENSORRT else None,
            low_memory,
            tuple(drop or ()),
            engine is ExportEngine.TORCH,
        )
    parity = written.parity
    worst = max(parity["components"].values())
    pictures = min(parity["pictures_db"].values(), default=None)
    compared = "pictures not compared" if pictures is None else f"pictures {pictures} dB"
    OUT.print(f"{out}  parity: components {worst:.1e}, {compared}", soft_wrap=True)
