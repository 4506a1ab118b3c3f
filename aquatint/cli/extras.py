"""Say in one line which extra is missing if a command needs more than a client's packages."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator

import typer
from rich.markup import escape

from aquatint.cli.terminal import ERR

_OURS = "aquatint"


@contextlib.contextmanager
def needs(extra: str, command: str) -> Iterator[None]:
    """Exit with status 1 and one line if the block cannot import a package of ``extra``."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(_OURS):
            raise
        print_missing(extra, command, error.name)
        raise SystemExit(1) from None


def require(extra: str, command: str, *modules: str) -> None:
    """Exit with status 1 and one line if one of ``modules``, which belong to ``extra``, is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            print_missing(extra, command, module)
            raise SystemExit(1)


def print_missing(extra: str, command: str, module: str | None) -> None:
    """Print which module ``command`` is missing and how to install it."""
    line = f"{command} needs more packages ({module} is missing): {install_command(extra)}"
    ERR.print(escape(line), highlight=False, soft_wrap=True)


def install_command(extra: str) -> str:
    """Return the command that installs ``extra``."""
    return f"pip install 'aquatint[{extra}]'"


def add_commands(app: typer.Typer, source: str, *, name: str, extra: str, needed: str) -> None:
    """Add the commands of ``source`` to ``app``; if ``needed`` is missing, add a stub that says which extra has it."""
    if importlib.util.find_spec(needed) is not None:
        app.add_typer(getattr(importlib.import_module(source), name), name=name)
        return

    @app.command(name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, hidden=True)
    def explain() -> None:
        print_missing(extra, f"aquatint {name}", needed)
        raise typer.Exit(1)
