"""The ``aquatint`` command: run, generate, serve, models, doctor, registry, and what other components add.

``aquatint.cli.components`` says how a component adds its commands.
"""

from __future__ import annotations

from typing import Annotated

import typer

from aquatint._version import __version__
from aquatint.cli import components, extras
from aquatint.cli.generate import generate
from aquatint.cli.models import doctor, models
from aquatint.cli.run.command import run
from aquatint.cli.serve import serve
from aquatint.cli.terminal import OUT

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run Stable Diffusion 3.5 on NVIDIA Triton.",
)
for command in (run, generate, serve, models, doctor):
    app.command()(command)
extras.add_commands(app, "aquatint.cli.registry", name="registry", extra="triton", needed="psutil")
components.add_commands(app)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        OUT.print(f"aquatint {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options of ``aquatint`` itself; each acts in its callback."""


if __name__ == "__main__":
    app()
