"""``aquatint run``: export, start, generate the first image, print the page's address, keep everything running."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.table import Table

from aquatint.cli import components, extras
from aquatint.cli.components import Service
from aquatint.cli.run import demo
from aquatint.cli.run.programs import Program
from aquatint.cli.run.settings import RunSettings, check_disk, check_ports, default_home, ports
from aquatint.cli.run.stages import Stages
from aquatint.cli.terminal import OUT, clean_errors, render_png
from aquatint.client import connect, readiness
from aquatint.contract.errors import EngineUnavailable
from aquatint.contract.request import GenerationRequest
from aquatint.settings import ServerSettings, read_settings

if TYPE_CHECKING:
    from aquatint.cli.run.supervisor import Supervisor

_PROMPT = "a flat emoji of a fox on a blue background"
_READY_TIMEOUT_S = 180.0
_POLL_S = 0.25
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Layout:
    """Files under the home folder, and the addresses of what runs."""

    home: Path
    server: ServerSettings
    run: RunSettings
    llm: Service | None

    @property
    def repository(self) -> Path:
        """The model repository that is served."""
        return self.home / "repository"

    @property
    def logs(self) -> Path:
        """The folder with one log for each program and stage."""
        return self.home / "logs"

    @property
    def image(self) -> Path:
        """The file of the first image."""
        return self.home / "picture.png"

    @property
    def page(self) -> str:
        """The chat page's address."""
        return f"http://127.0.0.1:{self.run.chat_port}"

    @property
    def mcp(self) -> str:
        """The address of the MCP server and the images API."""
        return f"http://127.0.0.1:{self.run.mcp_port}"


def run(
    *,
    home: Annotated[
        Path | None, typer.Option(help="Folder of everything that is kept.", envvar="AQUATINT_HOME")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A diffusers folder or hub id instead of the demo checkpoint.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="The first image.")] = _PROMPT,
    llm: Annotated[bool, typer.Option("--llm/--no-llm", help="Install and serve the small language model.")] = True,
    torch: Annotated[
        str, typer.Option(help="For the language model: the requirement that pip installs torch from.")
    ] = "torch==2.13.0",
    pip_options: Annotated[
        str,
        typer.Option(help="For the language model: options of pip for torch, such as one that chooses a CPU build."),
    ] = "",
) -> None:
    """Serve everything on this machine, and generate PROMPT, until Ctrl-C: Triton, MCP, images API, chat page."""
    extras.require("run", "aquatint run", "supervisor", "pytriton", "onnxruntime", "torch", "onnxscript", "fastmcp")
    extras.require("run", "aquatint run", "sqlalchemy", "openai")
    from aquatint.cli.run.supervisor import Supervisor  # noqa: PLC0415 - a client does not install supervisor

    # Also if the shell made us ignore Ctrl-C, as it does for background commands.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with clean_errors(), contextlib.suppress(KeyboardInterrupt):
        service = components.service("llm") if llm else None
        folder = (home or default_home()).absolute()
        layout = Layout(folder, read_settings(ServerSettings), read_settings(RunSettings), service)
        check_disk(layout.home)
        check_ports(ports(layout.server, layout.run, service))
        layout.logs.mkdir(exist_ok=True)
        stages = Stages(OUT)
        _export(layout, checkpoint or str(demo.bundled_checkpoint()), stages)
        began = time.monotonic()
        with Supervisor(list(_programs(layout, torch, pip_options)), layout.logs) as supervisor, _stopping(stages):
            _start(layout, supervisor, stages=stages, prompt=prompt)
            OUT.print(_panel(layout))
            _watch(layout, supervisor, stages=stages, began=began)


def _export(layout: Layout, checkpoint: str, stages: Stages) -> None:
    current, _ = demo.is_current(layout.repository, checkpoint)
    if not current:
        with stages.stage("model repository"):
            demo.export(checkpoint, layout.repository, layout.logs / "export.log")


def _programs(layout: Layout, torch: str, pip_options: str) -> Iterator[Program]:
    server, home = layout.server, layout.home
    kept = {"AQUATINT_ADMIN_KEY_FILE": str(home / "admin-key")}
    serve = [str(_BIN / "aquatint"), "serve", str(layout.repository)]
    yield Program("triton", serve, _unless_set(kept))
    kept = {"IMAGE_OUTPUT_PATH": str(home / "images"), "AQUATINT_URL": f"127.0.0.1:{server.grpc_port}"}
    yield Program("mcp", [str(_BIN / "aquatint-mcp")], {**_unless_set(kept), "PORT": str(layout.run.mcp_port)})
    kept = {
        "AQUATINT_CHAT_MCP_URL": f"{layout.mcp}/mcp",
        "AQUATINT_CHAT_DATABASE_URL": f"sqlite:///{home / 'chat.db'}",
    }
    if layout.llm is not None:
        kept["AQUATINT_CHAT_LLM_URL"] = f"http://127.0.0.1:{layout.llm.port.number}/v1"
    yield Program("chat", [str(_BIN / "aquatint-chat")], {**_unless_set(kept), "PORT": str(layout.run.chat_port)})
    if layout.llm is not None:
        yield layout.llm.program(torch=torch, pip_options=pip_options)


def _unless_set(variables: dict[str, str]) -> dict[str, str]:
    """Drop the ``variables`` that the user's environment already sets."""
    return {name: value for name, value in variables.items() if name not in os.environ}


@contextlib.contextmanager
def _stopping(stages: Stages) -> Iterator[None]:
    """Announce the shutdown before it begins."""
    try:
        yield
    except KeyboardInterrupt:
        OUT.print("stopping …")
        raise


def _start(layout: Layout, supervisor: Supervisor, *, stages: Stages, prompt: str) -> None:
    address = f"http://127.0.0.1:{layout.server.http_port}/v2/health/ready"
    with stages.stage("Triton"):
        _wait(supervisor, "triton", lambda: readiness.is_ready(address))
    with stages.stage("first image"), connect(url=f"127.0.0.1:{layout.server.grpc_port}", protocol="grpc") as client:
        image = client.generate(GenerationRequest(prompt=prompt)).images[0]
        layout.image.write_bytes(image.png)
    if OUT.is_terminal and OUT.color_system == "truecolor":
        OUT.print(render_png(image.png, columns=32))
    with stages.stage("MCP server and images API"):
        _wait(supervisor, "mcp", lambda: readiness.is_ready(f"{layout.mcp}/health/ready"))
    with stages.stage("chat"):
        _wait(supervisor, "chat", lambda: readiness.is_ready(f"{layout.page}/health/ready"))


def _wait(supervisor: Supervisor, program: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not ready():
        if program in supervisor.given_up():
            raise EngineUnavailable(f"{program} does not start:\n{supervisor.last_words(program)}")
        if time.monotonic() > deadline:
            raise EngineUnavailable(f"{program} is not ready after {_READY_TIMEOUT_S:g} s; its log tells more")
        time.sleep(_POLL_S)


def _panel(layout: Layout) -> Panel:
    rows = Table.grid(padding=(0, 2))
    rows.add_row("chat page", f"[bold]{layout.page}[/]")
    rows.add_row("first image", str(layout.image))
    rows.add_row("try", 'aquatint generate "a noto emoji of a penguin on a pink background"')
    rows.add_row("", f"an MCP client: {layout.mcp}/mcp")
    rows.add_row("", f"an OpenAI client: {layout.mcp}/v1")
    rows.add_row("logs", str(layout.logs))
    return Panel(rows, title="Aquatint is running; Ctrl-C stops it", expand=False)


def _watch(layout: Layout, supervisor: Supervisor, *, stages: Stages, began: float) -> None:
    """Wait until Ctrl-C; print when the language model is ready, and what supervisor no longer restarts."""
    llm = layout.llm
    if llm is not None:
        OUT.print("the language model follows; it is installed once (2.5 GB), and the page works without it")
    reported: set[str] = set()
    while supervisor.is_running():
        if llm is not None and readiness.is_ready(f"http://127.0.0.1:{llm.port.number}/health"):
            stages.ended("language model", time.monotonic() - began)
            llm = None
        for program in supervisor.given_up() - reported:
            reported.add(program)
            stages.ended(program, time.monotonic() - began, "[red]✗[/]")
            OUT.print(supervisor.last_words(program), markup=False, highlight=False)
            llm = None if program == "llm" else llm
        time.sleep(2.0 if llm is None else _POLL_S)
    raise EngineUnavailable(f"supervisord ended; see {layout.logs / 'supervisord.log'}")
