"""Components to ONNX files, and what torch makes of some inputs, to compare them with."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from aquatint_export import onnx_export, parity
from aquatint_export.components import Component
from aquatint_export.families import Checkpoint
from aquatint_export.parity import Reference


@dataclass(frozen=True)
class Traced:
    """A component as an ONNX file at ``path``; ``references`` are of torch in FP32."""

    component: Component
    path: Path
    references: list[Reference]


def trace(checkpoint: Checkpoint, component: Component, folder: Path, *, dtype: str) -> Traced:
    """Write ``folder/model.onnx`` in ``dtype``. A component that is not in memory is only held for the while."""
    seed = torch.seed() % 2**31
    with checkpoint.loaded(component) as module:
        references = parity.reference_outputs(dataclasses.replace(component, module=module), seed)
        if not checkpoint.can_stream(component):
            onnx_export.export(dataclasses.replace(component, module=_cast(module, component, dtype)), folder)
        del module
    if checkpoint.can_stream(component):
        checkpoint.stream(component, folder, dtype=dtype)
    return Traced(component, folder / onnx_export.FILE_NAME, references)


def _cast(module: nn.Module, component: Component, dtype: str) -> nn.Module:
    if dtype == "fp32":
        return module
    # What stays in memory is still needed in FP32.
    return (copy.deepcopy(module) if component.is_in_memory else module).half()
