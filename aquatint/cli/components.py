"""What other components offer the command line. The core imports none: it finds them by entry points.

``aquatint.commands``: a function that takes the application and adds commands. Its module is imported at every start,
so it imports heavy packages inside its commands.

``aquatint.services``: makes a ``Service``. ``aquatint run`` starts the one named ``llm``, ``aquatint doctor`` examines
all.

``aquatint.exporters``: makes an ``Exporter``. ``aquatint serve`` and ``aquatint run`` use the one named ``checkpoint``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol

import typer

from aquatint.cli.run.programs import Port, Program
from aquatint.contract.errors import DependencyMissing

COMMANDS = "aquatint.commands"
SERVICES = "aquatint.services"
EXPORTERS = "aquatint.exporters"


@dataclass(frozen=True)
class Finding:
    """One line of ``aquatint doctor``. ``hint`` says what to do when it is not ``ok``."""

    part: str
    ok: bool
    detail: str
    hint: str = ""


class Service(Protocol):
    """A program of a component, with its settings."""

    @property
    def port(self) -> Port:
        """The port where it listens on loopback: ``/health`` answers once it is ready."""

    def program(self, *, torch: str, pip_options: str) -> Program:
        """Return what to run. It first installs what is missing: ``torch`` with these options of pip, and the rest."""

    def examine(self) -> Finding:
        """Return whether it is installed."""


class Exporter(Protocol):
    """Makes model repositories of checkpoints."""

    def repositories(
        self, source: str, name: str, folder: Path, *, engine: str, progress: Callable[[str], None]
    ) -> Iterator[tuple[str, Path | None, str]]:
        """Yield candidates, best first: the engine, its repository or ``None`` where there can be none, and why.

        ``source`` is a diffusers folder or a hub id; ``engine`` a name, or ``auto`` for all that are preferred.
        Repositories are kept under ``folder`` and reused until the checkpoint changes.
        """

    def sources(self) -> Iterator[Path]:
        """List the files of the component that an export depends on."""


def add_commands(app: typer.Typer) -> None:
    """Add every component's commands to ``app``."""
    for point in _offered(COMMANDS):
        point.load()(app)


def services() -> list[Service]:
    """Make every service. Raises ``InvalidConfiguration`` if its settings are not valid."""
    return [point.load()() for point in _offered(SERVICES)]


def service(name: str) -> Service:
    """Make one service. Raises ``DependencyMissing`` if no component offers it."""
    made: Service = _only(SERVICES, name).load()()
    return made


def exporter() -> Exporter:
    """Make the exporter. Raises ``DependencyMissing`` if no component offers one."""
    made: Exporter = _only(EXPORTERS, "checkpoint").load()()
    return made


def _offered(group: str) -> list[EntryPoint]:
    return sorted(entry_points(group=group), key=lambda point: point.name)


def _only(group: str, name: str) -> EntryPoint:
    for point in entry_points(group=group, name=name):
        return point
    raise DependencyMissing(f"no entry point {name} of {group} is installed: install aquatint again")
