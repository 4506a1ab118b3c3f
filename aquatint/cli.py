"""The ``aquatint`` command: run, generate, export, serve, registry, bench, llm, models, doctor."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aquatint import __version__, extras, manifest, request
from aquatint import doctor as doctors
from aquatint.client import Client, GeneratedImage, Generation, Step, connect
from aquatint.errors import BundleRejected, EngineUnavailable, InvalidRequest
from aquatint.llm.commands import llm
from aquatint.request import GenerationRequest
from aquatint.run.command import run
from aquatint.settings import ClientSettings, ServerSettings, read_settings
from aquatint.terminal import ERR as _err
from aquatint.terminal import OUT as _out
from aquatint.terminal import clean_errors, log_to_terminal, render_png

if TYPE_CHECKING:
    from aquatint.server import TritonServer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(llm, name="llm")
extras.add_commands(app, "aquatint.registry.commands", name="registry", extra="triton", needed="psutil")
app.command()(run)
_log = logging.getLogger("aquatint.cli")


class Protocol(StrEnum):
    """Triton's two protocols."""

    GRPC = "grpc"
    HTTP = "http"


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


class ServeEngine(StrEnum):
    """What serves a checkpoint."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    ONNX = "onnx"
    DIFFUSERS = "diffusers"


class Dtype(StrEnum):
    """Precision of exported weights."""

    FP32 = "fp32"
    FP16 = "fp16"


def _print_version(wanted: bool) -> None:
    if wanted:
        _out.print(f"aquatint {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself; each does its work in its callback."""


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file; several images get -1, -2, …")] = Path("out.png"),
    negative_prompt: Annotated[str, typer.Option(help="What to avoid.")] = "",
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture.")] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", help="How many pictures.")] = 1,
    model: Annotated[str | None, typer.Option(help="The served model.")] = None,
    url: Annotated[str | None, typer.Option(help="host:port of the server.")] = None,
    protocol: Annotated[Protocol | None, typer.Option(help="grpc or http.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show the picture growing in the terminal.")] = False,
) -> None:
    """Draw pictures on a running server."""
    fields = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "width": width,
        "height": height,
        "seed": seed,
        "num_images": num_images,
        "model": model,
        "preview_every": int(preview),
    }
    with clean_errors(), _connect(url=url, protocol=protocol and protocol.value) as client:
        generation = _draw(client, request.parse(fields), preview)
        for path, image in zip(_paths(out, num_images), generation.images):
            _write(path, image)
            _out.print(f"{path}  seed {image.seed}", highlight=False)
        if preview and sys.stdout.isatty():
            _out.print(render_png(generation.images[0].png))
        if generation.dropped_tokens:
            _err.print(f"[yellow]note:[/] the prompt was {generation.dropped_tokens} tokens too long and was cut")


def _connect(**overrides: Any) -> Client:
    return connect(**{name: value for name, value in overrides.items() if value is not None})


def _draw(client: Client, wanted: GenerationRequest, preview: bool) -> Generation:
    """Stream one request behind a progress bar."""
    progress = _progress()
    with Live(progress, console=_err, transient=True, refresh_per_second=20) as live:
        task = progress.add_task("drawing", total=None)
        for event in client.stream(wanted):
            if isinstance(event, Generation):
                return event
            progress.update(task, completed=event.step, total=event.total_steps)
            if preview and event.previews and sys.stderr.isatty():
                live.update(_with_preview(progress, event))
    raise AssertionError("a stream ends with a Generation or an error")


def _with_preview(progress: Progress, event: Step) -> Table:
    grid = Table.grid()
    grid.add_row(render_png(event.previews[0]))
    grid.add_row(progress)
    return grid


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=_err
    )


def _paths(out: Path, count: int) -> list[Path]:
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{index + 1}{out.suffix}") for index in range(count)]


def _write(path: Path, image: GeneratedImage) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(image.png)
    partial.replace(path)


@app.command()
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
    with clean_errors(), _err.status("starting") as status:
        if engine is ExportEngine.DIFFUSERS:
            publish_pipeline(checkpoint, out, name, status.update)
            _out.print(f"{out}  drawn by diffusers itself, no parity to check", soft_wrap=True)
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
    _out.print(f"{out}  parity: components {worst:.1e}, {compared}", soft_wrap=True)


@app.command()
def serve(
    source: Annotated[str, typer.Argument(help="A model repository of 'aquatint export', or a checkpoint.")],
    engine: Annotated[
        ServeEngine, typer.Option(help="For a checkpoint. auto: the first that works of tensorrt, onnx, diffusers.")
    ] = ServeEngine.AUTO,
    name: Annotated[str, typer.Option(help="For a checkpoint: name of the served model.")] = "mini",
    cache: Annotated[Path, typer.Option(help="For a checkpoint: where its repositories are kept.")] = Path(
        "build/served"
    ),
    http_port: Annotated[int | None, typer.Option(help="0 for any free port.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="0 for any free port.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="0 for any free port.")] = None,
    draw: Annotated[str | None, typer.Option(help="Draw this prompt once ready.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where --draw puts its picture.")] = Path("out.png"),
    once: Annotated[bool, typer.Option("--once", help="Stop after --draw.")] = False,
    log: Annotated[Path | None, typer.Option(help="Write Triton's log to this file instead of stderr.")] = None,
) -> None:
    """Serve a model repository, or a checkpoint, with the embedded tritonserver until Ctrl-C."""
    extras.require("triton", "aquatint serve", "psutil", "onnxruntime")
    from aquatint.registry.service import admin_key  # noqa: PLC0415 - servers' packages are not among a client's

    log_to_terminal(logging.WARNING)
    logging.getLogger("aquatint").setLevel(logging.INFO)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopping.set())
    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    chosen = {port: number for port, number in ports.items() if number is not None}
    with clean_errors(), _log_sink(log) as sink, contextlib.ExitStack() as stack:
        settings = read_settings(ServerSettings).model_copy(update=chosen)
        settings = settings.model_copy(update={"admin_key": admin_key(settings)})
        server, described = _start(stack, source, engine, name, cache, settings, sink)
        addresses = f"gRPC {server.grpc_url}  HTTP {server.http_url}  metrics {server.metrics_url}"
        _out.print(f"[green]ready[/]  {addresses}", soft_wrap=True)
        if draw is not None:
            with _connect(url=server.grpc_url, model=described.model, protocol="grpc") as client:
                _write(out, _draw(client, request.parse({"prompt": draw}), preview=False).images[0])
            _out.print(f"picture: {out.resolve()}", soft_wrap=True)
        if not once:
            server.watch(_probe(server, described.model), stopping)


def _start(
    stack: contextlib.ExitStack,
    source: str,
    engine: ServeEngine,
    name: str,
    cache: Path,
    settings: ServerSettings,
    sink: Callable[[str], None],
) -> tuple[TritonServer, manifest.Manifest]:
    """A running server, and what it serves; for a checkpoint the first engine that works, and the reasons."""
    from aquatint.server import TritonServer  # noqa: PLC0415 - as in ``serve``

    repository = Path(source)
    if (repository / manifest.FILE_NAME).is_file():
        described = manifest.read(repository)
        if engine not in (ServeEngine.AUTO, described.engine):
            raise InvalidRequest(f"--engine: this repository is for {described.engine}, not for {engine.value}")
        return stack.enter_context(TritonServer(repository, settings, sink)), described
    with extras.needs("export", "aquatint serve CHECKPOINT"):
        from aquatint_export import repositories  # noqa: PLC0415 - needs torch, which only checkpoints need here
    refusals = []
    for candidate, made, why in repositories(source, name, cache, engine.value, _log.info):
        if made is None:
            refusals.append(f"{candidate}: {why}")
            _log.warning("not served by %s: %s", candidate, why)
            continue
        try:
            server = stack.enter_context(TritonServer(made, settings, sink))
        except EngineUnavailable as error:
            refusals.append(f"{candidate}: {error}")
            _log.warning("not served by %s: %s", candidate, error)
            continue
        _log.info("served by %s: %s", candidate, why)
        return server, manifest.read(made)
    raise BundleRejected("no engine serves this checkpoint: " + "; ".join(refusals))


@contextlib.contextmanager
def _log_sink(path: Path | None) -> Iterator[Callable[[str], None]]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("w")) if path is not None else sys.stderr

        def write(line: str) -> None:
            print(line, file=file, flush=True)

        yield write


def _probe(server: TritonServer, model: str) -> Callable[[], None]:
    """Draw one step through both fronts."""
    wanted = GenerationRequest(prompt="probe", num_inference_steps=1, seed=0)

    def probe() -> None:
        timeout_s = server.settings.probe_timeout_s
        with connect(url=server.grpc_url, protocol="grpc", model=model, retries=0) as client:
            client.generate(wanted, timeout_s)
            for _ in client.stream(wanted, timeout_s):
                pass

    return probe


@app.command()
def models(
    repository: Annotated[Path | None, typer.Argument(help="Also describe this model repository.")] = None,
    url: Annotated[str | None, typer.Option(help="host:port of the server.")] = None,
) -> None:
    """Show what a repository holds and whether the server is ready to draw with it."""
    with clean_errors():
        settings = read_settings(ClientSettings)
        described = manifest.read(repository) if repository is not None else None
        name = described.model if described is not None else settings.model
        with _connect(url=url, model=name) as client:
            ready = client.is_ready()
    table = Table("model", "server", "source", "target", "dtype", "licence")
    facts = (
        ("-",) * 4 if described is None else (described.source, described.target, described.dtype, described.licence)
    )
    table.add_row(name, "ready" if ready else "not ready", *facts)
    _out.print(table)


@app.command()
def bench(
    checkpoint: Annotated[Path, typer.Option(help="The diffusers folder that every engine draws with.")] = Path(
        "pipelines/models/mini"
    ),
    engine: Annotated[
        list[ExportEngine] | None,
        typer.Option(
            help="Engines to measure; repeatable. The first also gets the mixes. By default all that can run."
        ),
    ] = None,
    clients: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of clients; repeatable.")] = None,
    per_client: Annotated[int, typer.Option(min=2, help="Requests of each client.")] = 8,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of bench.json, bench.md and the plots.")] = Path(
        "build/bench"
    ),
) -> None:
    """Measure every engine against diffusers behind KServe V1; tables and plots. Takes about ten minutes."""
    with extras.needs("bench", "aquatint bench"):
        # Need torch, matplotlib and perf_analyzer, which only this command uses.
        from aquatint_benchmarks import bench as benchmarks  # noqa: PLC0415
        from aquatint_benchmarks import report  # noqa: PLC0415
    with clean_errors(), _err.status("starting") as status:
        chosen = [each.value for each in engine] if engine else benchmarks.engines()
        result = benchmarks.run(checkpoint, chosen, clients or [1, 2, 4, 8], per_client, out, status.update)
        report.write(result, out)
    _out.print(report.markdown(result), markup=False, highlight=False, soft_wrap=True)
    _out.print(f"{out}/bench.json, bench.md and plots", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Check what runs on this machine, what is missing, and why."""
    table = Table("part", "", "found", "what to do")
    findings = list(doctors.examine())
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]missing[/]"
        table.add_row(finding.part, mark, escape(finding.detail), "" if finding.ok else escape(finding.hint))
    _out.print(table)
    if not findings[0].ok:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
