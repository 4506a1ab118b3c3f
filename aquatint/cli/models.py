"""``aquatint models`` and ``aquatint doctor``: show what is there, and whether it works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from aquatint.cli import doctor as doctors
from aquatint.cli.generate import connect_to
from aquatint.cli.terminal import OUT, clean_errors
from aquatint.repository import manifest
from aquatint.settings import ClientSettings, read_settings


def models(
    repository: Annotated[Path | None, typer.Argument(help="Also describe this model repository.")] = None,
    url: Annotated[str | None, typer.Option(help="host:port of the server.")] = None,
) -> None:
    """Show what a repository holds and whether the server is ready to generate with it."""
    with clean_errors():
        settings = read_settings(ClientSettings)
        described = manifest.read(repository) if repository is not None else None
        name = described.model if described is not None else settings.model
        with connect_to(url=url, model=name) as client:
            ready = client.is_ready()
    table = Table("model", "server", "source", "target", "dtype", "licence")
    facts = (
        ("-",) * 4 if described is None else (described.source, described.target, described.dtype, described.licence)
    )
    table.add_row(name, "ready" if ready else "not ready", *facts)
    OUT.print(table)


def doctor() -> None:
    """Check what runs on this machine, what is missing, and why."""
    table = Table("part", "", "found", "what to do")
    findings = list(doctors.examine())
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]missing[/]"
        table.add_row(finding.part, mark, escape(finding.detail), "" if finding.ok else escape(finding.hint))
    OUT.print(table)
    if not findings[0].ok:
        raise typer.Exit(1)
