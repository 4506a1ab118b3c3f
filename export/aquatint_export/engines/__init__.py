"""What can run an exported model. A module here that defines ``ENGINE`` adds one, by the module's name.

The denoiser's engine of the same name (``backends/denoiser/engines``) runs the transformer where it is served.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aquatint.contract.errors import InvalidConfiguration

if TYPE_CHECKING:
    from aquatint.repository.manifest import Manifest
    from aquatint_export.options import ExportOptions


class Engine(Protocol):
    """One way to run a model.

    ``preference`` orders the engines that ``auto`` tries, lowest first; ``None`` is only used when asked for.
    """

    preference: int | None

    def check(self, options: ExportOptions) -> str:
        """Return what will be used. Raises ``AquatintError`` if these options cannot be built here."""

    def usual_options(self, name: str) -> tuple[ExportOptions, str]:
        """Return the options to serve a model with on this machine, and why. Raises ``AquatintError`` if it cannot."""

    def export(self, source: str, options: ExportOptions, folder: Path, progress: Callable[[str], None]) -> Manifest:
        """Write the repository's models into ``folder`` and return its manifest. Raises ``AquatintError``."""


def names() -> list[str]:
    """List the engines, without importing any."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def find(name: str) -> Engine:
    """Return an engine. Raises ``InvalidConfiguration`` if there is none by that name."""
    if name not in names():
        raise InvalidConfiguration(f"engine: must be one of {', '.join(names())}, is {name!r}")
    engine: Engine = importlib.import_module(f"{__name__}.{name}").ENGINE
    return engine


def preferred() -> list[str]:
    """List the engines that ``auto`` tries, best first."""
    rated = [(preference, name) for name in names() if (preference := find(name).preference) is not None]
    return [name for _, name in sorted(rated)]
