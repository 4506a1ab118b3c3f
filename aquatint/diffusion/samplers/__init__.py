"""Samplers: how predicted velocities become latents, step by step. A module here that defines ``SAMPLER`` adds one.

They use only operators for arithmetic, so latents may be numpy arrays or torch tensors on any device.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from aquatint.diffusion.samplers.flow_match import FlowMatchConfig, Schedule

DEFAULT = "euler"


class Sampler(Protocol):
    """The steps of one request. ``schedule`` has one timestep for each evaluation of the transformer."""

    name: ClassVar[str]
    schedule: Schedule

    def __init__(self, config: FlowMatchConfig, num_inference_steps: int, image_seq_len: int) -> None: ...

    @staticmethod
    def supports(config: FlowMatchConfig) -> bool:
        """Return whether this sampler can follow the checkpoint's scheduler configuration."""

    def step(self, latents: Any, velocity: Any, index: int) -> Any:
        """Advance ``latents`` by evaluation ``index``; ``velocity`` has their shape, and evaluations come in order."""


@functools.cache
def registry() -> dict[str, type[Sampler]]:
    """Return every sampler by name, the default first."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found = {module.SAMPLER.name: module.SAMPLER for module in modules if hasattr(module, "SAMPLER")}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != DEFAULT, name))}


def available(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the samplers that can follow a diffusers scheduler configuration, the default first.

    Raises ``ValueError`` for an option that no sampler supports.
    """
    parsed = FlowMatchConfig.from_diffusers(config)
    return tuple(name for name, kind in registry().items() if kind.supports(parsed))
