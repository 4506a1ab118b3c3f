"""Components to ONNX files by ``torch.onnx.export(dynamo=True)``."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from aquatint_export.components import Component, random_inputs

OPSET = 20
FILE_NAME = "model.onnx"
# A protobuf message ends at 2 GiB; beyond this, weights go to a file beside it.
_EXTERNAL_DATA_BYTES = 1_800_000_000
_EXAMPLE_AXES = {"sequence": 13, "latent_height": 6, "latent_width": 10}


def export(component: Component, folder: Path) -> Path:
    """Write ``folder/model.onnx`` with dynamic batch, size and sequence axes; return its path."""
    program = trace(component, component.module)
    return save(program, folder, external_data=_weight_bytes(component) > _EXTERNAL_DATA_BYTES)


def trace(component: Component, module: nn.Module, *, optimize: bool = True) -> torch.onnx.ONNXProgram:
    """Make the ONNX graph of ``module``, called as ``component`` is. ``optimize`` needs real weights."""
    example = random_inputs(component, 2, _EXAMPLE_AXES, generator=torch.Generator().manual_seed(0))
    dynamic = {
        spec.name: {0: "batch", **{i + 1: axis for i, axis in enumerate(spec.shape) if isinstance(axis, str)}}
        for spec in component.inputs
    }
    with warnings.catch_warnings():
        # The exporter warns about its own internals (deprecations, names of unused axes).
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            args=(),
            kwargs=example,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=[spec.name for spec in component.inputs],
            output_names=[spec.name for spec in component.outputs],
            opset_version=OPSET,
            optimize=optimize,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch.onnx.export returned nothing for {component.name}")
    return program


def save(program: torch.onnx.ONNXProgram, folder: Path, *, external_data: bool) -> Path:
    """Write ``folder/model.onnx``, its weights to a file beside it if asked; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    program.save(str(path), external_data=external_data)
    return path


def _weight_bytes(component: Component) -> int:
    return sum(p.numel() * p.element_size() for p in component.module.parameters())
