"""``aquatint llm``: install and serve the embedded language model."""

from __future__ import annotations

import os
import shlex
from typing import Annotated

import typer

from aquatint.cli.terminal import OUT, clean_errors
from aquatint.settings import read_settings
from aquatint_llm.environment import install
from aquatint_llm.serve import EMBEDDED_MODEL, LlmSettings, command


def add(app: typer.Typer) -> None:
    """Add the commands of this component."""
    app.add_typer(llm, name="llm")


llm = typer.Typer(no_args_is_help=True, help="The embedded language model on vLLM.")

Torch = Annotated[str, typer.Option(help="What pip installs first.")]
PipOptions = Annotated[str, typer.Option(help="pip's options for torch, like one that chooses a CPU build.")]


@llm.command("install")
def install_command(torch: Torch = "torch==2.13.0", pip_options: PipOptions = "") -> None:
    """Make vLLM's own environment with the small language model (2.5 GB, minutes). Does nothing if it is there."""
    with clean_errors():
        home = read_settings(LlmSettings).home
        install(home, torch, shlex.split(pip_options), lambda step: OUT.print(f"installing {step} …"))
        OUT.print(f"{home}  {EMBEDDED_MODEL} on vLLM", soft_wrap=True)


@llm.command()
def serve(
    install_first: Annotated[bool, typer.Option("--install", help="Install what is missing first.")] = False,
    torch: Torch = "torch==2.13.0",
    pip_options: PipOptions = "",
) -> None:
    """Serve the language model with OpenAI's API until Ctrl-C; this process becomes vLLM's."""
    if install_first:
        install_command(torch, pip_options)
    with clean_errors():
        settings = read_settings(LlmSettings)
        line, environment = command(settings)
        OUT.print(f"loading {EMBEDDED_MODEL} for http://{settings.host}:{settings.port}/v1", soft_wrap=True)
    os.execve(line[0], line, environment)
