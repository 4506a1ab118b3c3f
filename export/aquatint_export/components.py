"""What is exported and served on its own: modules, their inputs and outputs, and which of the axes are dynamic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. ``shape`` leaves out the batch axis; a string names a dynamic axis."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Component:
    """A part of the model that is exported and served on its own. All floats cross its border as FP32.

    Text encoders have a ``vocab_size`` and take up to ``max_tokens``.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    vocab_size: int = 0
    max_tokens: int = 0

    @property
    def is_in_memory(self) -> bool:
        """Whether the module has weights, not only shapes."""
        return not any(parameter.is_meta for parameter in self.module.parameters())

    def describe(self) -> dict[str, Any]:
        """Return the inputs and outputs as the manifest has them."""

        def described(specs: tuple[TensorSpec, ...]) -> dict[str, dict[str, object]]:
            return {
                spec.name: {"dtype": str(spec.dtype).removeprefix("torch."), "shape": ["batch", *spec.shape]}
                for spec in specs
            }

        return {"inputs": described(self.inputs), "outputs": described(self.outputs)}


def random_inputs(
    component: Component, batch: int, axes: dict[str, int], *, generator: torch.Generator
) -> dict[str, Tensor]:
    """Make random inputs of plausible scale; ``axes`` gives the length of each dynamic axis.

    Sequences are cut to what a text encoder can take.
    """
    if component.max_tokens:
        axes = {**axes, "sequence": min(axes["sequence"], component.max_tokens)}
    inputs = {}
    for spec in component.inputs:
        shape = (batch, *(axes[axis] if isinstance(axis, str) else axis for axis in spec.shape))
        if spec.dtype == torch.int64:
            inputs[spec.name] = torch.randint(0, component.vocab_size, shape, generator=generator)
        elif spec.name == "timestep":
            inputs[spec.name] = torch.rand(shape, generator=generator) * 1000.0
        elif spec.name == "skip_layers":
            inputs[spec.name] = torch.randint(0, 2, shape, generator=generator).float()
        else:
            inputs[spec.name] = torch.randn(shape, generator=generator)
    return inputs
