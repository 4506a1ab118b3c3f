"""What multiplies the denoiser's matrices. A module here named like the engine adds one; it has ``open_engine``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aquatint.contract.errors import InvalidConfiguration
from aquatint.diffusion.in_flight import Engine

DEFAULT = "onnx"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an engine finds its weights and runs: a model's version folder, its parameters, Triton's instance."""

    version: Path
    parameters: Mapping[str, str]
    max_rows: int
    kind: str = "CPU"
    device: int = 0


class EngineModule(Protocol):
    """A module of this package."""

    def open_engine(self, place: Place) -> Engine:
        """Load the weights. Raises ``AquatintError``."""


def open_engine(place: Place) -> Engine:
    """Open the engine that the parameter ``engine`` names. Raises ``AquatintError``."""
    name = place.parameters.get("engine", DEFAULT)
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise InvalidConfiguration(f"engine: must be one of {', '.join(known)}, is {name!r}")
    module: EngineModule = importlib.import_module(f"{__name__}.{name}")
    return module.open_engine(place)
