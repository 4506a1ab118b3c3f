"""``aquatint bench``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aquatint.cli import extras
from aquatint.cli.terminal import ERR, OUT, clean_errors


def add(app: typer.Typer) -> None:
    """Add the commands of this component."""
    app.command()(bench)


class BenchEngine(StrEnum):
    """What can be measured."""

    ONNX = "onnx"
    TENSORRT = "tensorrt"
    TORCH = "torch"
    DIFFUSERS = "diffusers"


def bench(
    *,
    checkpoint: Annotated[Path, typer.Option(help="The diffusers folder that every engine generates with.")] = Path(
        "pipelines/models/mini"
    ),
    engine: Annotated[
        list[BenchEngine] | None,
        typer.Option(
            help="Engines to measure; repeatable. The first also gets the mixes. By default all that can run."
        ),
    ] = None,
    clients: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of clients; repeatable.")] = None,
    per_client: Annotated[int, typer.Option(min=2, help="Requests of each client.")] = 8,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Only what the server adds to SD3.5 Medium's steps; needs no GPU.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of bench.json, bench.md and the plots.")] = Path(
        "build/bench"
    ),
) -> None:
    """Measure every engine against diffusers behind KServe V1; tables and plots. Takes about ten minutes."""
    with extras.needs("bench", "aquatint bench"):
        # Need torch, matplotlib and perf_analyzer, which only this command uses.
        from aquatint_benchmarks import bench as benchmarks  # noqa: PLC0415
        from aquatint_benchmarks import report  # noqa: PLC0415
        from aquatint_benchmarks.full_size import table as full_size_table  # noqa: PLC0415
    if full_size:
        with clean_errors(), ERR.status("starting") as status:
            table = full_size_table(checkpoint, clients=clients or [1, 4, 8], say=status.update)
        OUT.print(table, markup=False, highlight=False, soft_wrap=True)
        return
    with clean_errors(), ERR.status("starting") as status:
        chosen = [each.value for each in engine] if engine else benchmarks.engines()
        result = benchmarks.run(
            checkpoint, chosen, clients=clients or [1, 2, 4, 8], per_client=per_client, out=out, say=status.update
        )
        report.write(result, out)
    OUT.print(report.markdown(result), markup=False, highlight=False, soft_wrap=True)
    OUT.print(f"{out}/bench.json, bench.md and plots", soft_wrap=True)
