"""``aquatint generate``: send one request to a running server. Its options come from the request contract."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from aquatint.cli.terminal import ERR, OUT, clean_errors, render_png
from aquatint.client import Client, connect
from aquatint.contract import request
from aquatint.contract.fields import parameters, take_fields
from aquatint.contract.generation import Generation, Progress
from aquatint.contract.request import GenerationRequest

_FLAGS = {"num_inference_steps": ["--steps"], "num_images": ["--num-images", "-n"]}


class Protocol(StrEnum):
    """Triton's two protocols."""

    GRPC = "grpc"
    HTTP = "http"


def generate(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file; several images get -1, -2, …")] = Path("out.png"),
    url: Annotated[str | None, typer.Option(help="host:port of the server.")] = None,
    protocol: Annotated[Protocol | None, typer.Option(help="grpc or http.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show the image growing in the terminal.")] = False,
    **fields: Any,
) -> None:
    """Generate images on a running server."""
    with clean_errors(), connect_to(url=url, protocol=protocol and protocol.value) as client:
        wanted = request.parse({**fields, "preview_every": int(preview)})
        generation = generate_behind_bar(client, wanted, preview=preview)
        for path, image in zip(_paths(out, wanted.num_images), generation.images):
            image.save(path)
            OUT.print(f"{path}  seed {image.seed}", highlight=False)
        if preview and sys.stdout.isatty():
            OUT.print(render_png(generation.images[0].png))
        if generation.dropped_tokens:
            ERR.print(f"[yellow]note:[/] the prompt was {generation.dropped_tokens} tokens too long and was cut")


def _option(name: str, annotation: Any) -> Any:
    kind, field = annotation.__origin__, annotation.__metadata__[0]
    if name == "prompt":
        return Annotated[kind, typer.Argument(help=field.description, show_default=False)]
    return Annotated[kind, typer.Option(*_FLAGS.get(name, []), help=field.description, show_default=False)]


take_fields(generate, parameters(exclude=("preview_every",), annotate=_option))


def connect_to(**overrides: Any) -> Client:
    """Connect according to the settings, overridden by what is not ``None``."""
    return connect(**{name: value for name, value in overrides.items() if value is not None})


def generate_behind_bar(client: Client, wanted: GenerationRequest, *, preview: bool = False) -> Generation:
    """Stream one request behind a progress bar; with ``preview``, show the image as it takes shape."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = ProgressBar(*columns, console=ERR)
    with Live(bar, console=ERR, transient=True, refresh_per_second=20) as live:
        task = bar.add_task("generating", total=None)
        for event in client.stream(wanted):
            if isinstance(event, Generation):
                return event
            bar.update(task, completed=event.step, total=event.total_steps)
            if preview and event.previews and sys.stderr.isatty():
                live.update(_with_preview(bar, event))
    raise AssertionError("a stream ends with a Generation or an error")


def _with_preview(bar: ProgressBar, event: Progress) -> Table:
    grid = Table.grid()
    grid.add_row(render_png(event.previews[0].png))
    grid.add_row(bar)
    return grid


def _paths(out: Path, count: int) -> list[Path]:
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{index + 1}{out.suffix}") for index in range(count)]
