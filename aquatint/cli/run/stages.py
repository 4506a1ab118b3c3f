"""One line per stage: a spinner and the elapsed time while it runs, then a mark and the time it took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Stages:
    """Prints stages to ``console``; where that is not a terminal, only how they ended."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show that ``name`` is running inside the block."""
        began = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description:<27}"), TimeElapsedColumn())
        try:
            with Progress(
                *columns, console=self._console, transient=True, disable=not self._console.is_terminal
            ) as shown:
                shown.add_task(name, total=None)
                yield
        except BaseException:
            self.ended(name, time.monotonic() - began, "[red]✗[/]")
            raise
        self.ended(name, time.monotonic() - began)

    def ended(self, name: str, seconds: float, mark: str = "[green]✓[/]") -> None:
        """Print that ``name`` ended after ``seconds``."""
        self._console.print(f"{mark} {name:<28}{seconds:5.0f} s", highlight=False)
