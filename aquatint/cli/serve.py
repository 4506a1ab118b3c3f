"""``aquatint serve``: run the embedded tritonserver on a model repository, or on a checkpoint, exported first."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aquatint.cli import components, extras
from aquatint.cli.generate import connect_to, generate_behind_bar
from aquatint.cli.terminal import OUT, clean_errors, log_to_terminal
from aquatint.client import connect
from aquatint.contract import request
from aquatint.contract.errors import EngineUnavailable, InvalidRequest, ModelRejected
from aquatint.contract.request import GenerationRequest
from aquatint.repository import manifest
from aquatint.settings import ServerSettings, read_settings

if TYPE_CHECKING:
    from aquatint.server import TritonServer

_log = logging.getLogger("aquatint.serve")


# Engines are the export's: the command line does not know their names.
_AUTO = "auto"


def serve(  # noqa: PLR0913 - the command's options
    source: Annotated[str, typer.Argument(help="A model repository of 'aquatint export', or a checkpoint.")],
    *,
    engine: Annotated[
        str, typer.Option(help="For a checkpoint: an engine of 'aquatint export'; auto: the first that works.")
    ] = _AUTO,
    name: Annotated[str, typer.Option(help="For a checkpoint: name of the served model.")] = "mini",
    cache: Annotated[Path, typer.Option(help="For a checkpoint: where its repositories are kept.")] = Path(
        "build/served"
    ),
    http_port: Annotated[int | None, typer.Option(help="0 for any free port.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="0 for any free port.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="0 for any free port.")] = None,
    draw: Annotated[str | None, typer.Option(help="Generate this prompt once ready.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where --draw puts its image.")] = Path("out.png"),
    once: Annotated[bool, typer.Option("--once", help="Stop after --draw.")] = False,
    log: Annotated[Path | None, typer.Option(help="Write Triton's log to this file instead of stderr.")] = None,
) -> None:
    """Serve a model repository, or a checkpoint, with the embedded tritonserver until Ctrl-C."""
    extras.require("triton", "aquatint serve", "psutil", "onnxruntime")
    from aquatint.registry.service import admin_key  # noqa: PLC0415 - a client does not install its packages

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
        wanted = _Wanted(source, engine, name, cache)
        server, described = _start(stack, wanted, settings, sink)
        addresses = f"gRPC {server.grpc_url}  HTTP {server.http_url}  metrics {server.metrics_url}"
        OUT.print(f"[green]ready[/]  {addresses}", soft_wrap=True)
        if draw is not None:
            with connect_to(url=server.grpc_url, model=described.model, protocol="grpc") as client:
                generate_behind_bar(client, request.parse({"prompt": draw})).images[0].save(out)
            OUT.print(f"image: {out.resolve()}", soft_wrap=True)
        if not once:
            server.watch(_probe(server, described.model), stopping)


@dataclass(frozen=True)
class _Wanted:
    """What to serve; all fields except ``source`` are for checkpoints."""

    source: str
    engine: str
    name: str
    cache: Path


def _start(
    stack: contextlib.ExitStack, wanted: _Wanted, settings: ServerSettings, sink: Callable[[str], None]
) -> tuple[TritonServer, manifest.Manifest]:
    """Start a server; return it and what it serves. For a checkpoint, use the first engine that works and log why."""
    from aquatint.server import TritonServer  # noqa: PLC0415 - as in ``serve``

    repository = Path(wanted.source)
    if (repository / manifest.FILE_NAME).is_file():
        described = manifest.read(repository)
        if wanted.engine not in (_AUTO, described.engine):
            raise InvalidRequest(f"--engine: this repository is for {described.engine}, not for {wanted.engine}")
        return stack.enter_context(TritonServer(repository, settings, sink)), described
    refusals = []
    for candidate, made, why in _repositories(wanted):
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
    raise ModelRejected("no engine serves this checkpoint: " + "; ".join(refusals))


def _repositories(wanted: _Wanted) -> Iterator[tuple[str, Path | None, str]]:
    """Export a checkpoint for each engine in turn."""
    with extras.needs("export", "aquatint serve CHECKPOINT"):
        yield from components.exporter().repositories(
            wanted.source, wanted.name, wanted.cache, engine=wanted.engine, progress=_log.info
        )


@contextlib.contextmanager
def _log_sink(path: Path | None) -> Iterator[Callable[[str], None]]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("w")) if path is not None else sys.stderr

        def write(line: str) -> None:
            print(line, file=file, flush=True)

        yield write


def _probe(server: TritonServer, model: str) -> Callable[[], None]:
    """Make a probe that generates one step, unary and streamed."""
    wanted = GenerationRequest(prompt="probe", num_inference_steps=1, seed=0)

    def probe() -> None:
        timeout_s = server.settings.probe_timeout_s
        with connect(url=server.grpc_url, protocol="grpc", model=model, retries=0) as client:
            client.generate(wanted, timeout_s=timeout_s)
            for _ in client.stream(wanted, timeout_s=timeout_s):
                pass

    return probe
