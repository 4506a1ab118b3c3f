"""``aquatint runtime``, also installed as ``aquatint-runtime``."""

from __future__ import annotations

import sys

import typer

from aquatint.cli import extras


def add(app: typer.Typer) -> None:
    """Add the commands of this component."""
    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(context_settings=settings)(runtime)


def runtime(context: typer.Context) -> None:
    """Serve a diffusers pipeline as a KServe runtime; KServe's own flags follow."""
    sys.argv = ["aquatint-runtime", *context.args]
    main()


def main() -> None:
    """Run ``aquatint-runtime``."""
    with extras.needs("serving", "aquatint-runtime"):
        # A client does not install the server's packages.
        from aquatint_backends.aquatint_runtime.server import serve  # noqa: PLC0415
    serve()
