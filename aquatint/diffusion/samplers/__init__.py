"""Samplers: how predicted velocities become latents, step by step. A module here that defines ``SAMPLER`` adds one.

They use only operators for arithmetic, so latents may be numpy arrays or torch tensors on any device.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from aquatint.contract.errors import InvalidRequest
from aquatint.diffusion import plugins
from aquatint.diffusion.samplers.flow_match import FlowMatchConfig, Schedule

DEFAULT = "euler"


class Sampler(Protocol):
    """The steps of one request. ``schedule`` has one timestep for each evaluation of the transformer.

    ``diffusers_scheduler`` is the class of diffusers whose steps these equal.
    """

    name: ClassVar[str]
    diffusers_scheduler: ClassVar[str]
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
    found = {sampler.name: sampler for sampler in plugins.defined_in(__name__, __path__, "SAMPLER")}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != DEFAULT, name))}


def make(name: str | None, config: FlowMatchConfig, *, num_inference_steps: int, image_seq_len: int) -> Sampler:
    """Make the sampler of one request, the default for ``None``. Raises ``InvalidRequest`` for an unknown name."""
    kind = registry().get(name or DEFAULT)
    if kind is None:
        raise InvalidRequest(f"sampler: must be one of {', '.join(registry())}, is {name!r}")
    return kind(config, num_inference_steps, image_seq_len)


def available(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the samplers that can follow a diffusers scheduler configuration, the default first.

    Raises ``ValueError`` for an option that no sampler supports.
    """
    parsed = FlowMatchConfig.from_diffusers(config)
    return tuple(name for name, kind in registry().items() if kind.supports(parsed))
