"""A large transformer to ONNX without ever holding its weights: traced on fake tensors, weights copied file to file.

Peak memory is that of the graph and of one weight tensor, whatever the size of the model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensorMode

from aquatint.contract.errors import ModelRejected
from aquatint_export import onnx_export
from aquatint_export.components import Component
from aquatint_export.families.sd3 import large
from aquatint_export.families.sd3.modules import weight_name, wrap

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def export(component: Component, folder: Path, out: Path, *, dtype: str, skip_layers: Sequence[int] = ()) -> Path:
    """Write ``out/model.onnx`` and its weights beside it; ``folder`` is the checkpoint's. Return the path.

    Raises ``ModelRejected`` if a weight is missing or of another shape.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), _default_dtype(_DTYPES[dtype]):
        module = large.build(folder, component.name).eval()
    wrapped = wrap(component.name, module, skip_layers)
    with FakeTensorMode(allow_non_fake_inputs=True):
        program = onnx_export.trace(component, wrapped, optimize=False)
    weights = _Weights(folder / component.name)
    initializers = program.model.graph.initializers
    for name, value in initializers.items():
        if (stored := weight_name(name)) is not None:
            value.const_value = weights.lazy(stored, value)
    return onnx_export.save(program, out, external_data=True)


class _Weights:
    """The safetensors files of one component, read tensor by tensor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            if self._is_listed(file):
                with safe_open(file, "pt") as opened:
                    self._files.update(dict.fromkeys(opened.keys(), file))
        if not self._files:
            raise ModelRejected(f"{folder.name} has no safetensors; pickled weights are not read")

    def _is_listed(self, file: Path) -> bool:
        """Whether the index names a file: hubs keep other precisions (``….fp16.safetensors``) beside the weights."""
        for index in self._folder.glob("*.safetensors.index.json"):
            if index.name.count(".") == 3:
                return file.name in json.loads(index.read_text())["weight_map"].values()
        return file.name.count(".") == 1

    def lazy(self, name: str, value: Any) -> onnx_ir.LazyTensor:
        """Return the weight as a tensor that is read and cast when it is written."""
        if name not in self._files:
            raise ModelRejected(f"{self._folder.name}: the weight {name} is missing")
        with safe_open(self._files[name], "pt") as opened:
            shape = list(opened.get_slice(name).get_shape())
        if shape != [int(axis) for axis in value.shape]:
            raise ModelRejected(f"{self._folder.name}: the weight {name} has shape {shape}")

        # Some buffers stay FP32 in a half-precision graph.
        dtype = torch.float16 if value.dtype == onnx_ir.DataType.FLOAT16 else torch.float32

        def read() -> onnx_ir.TensorProtocol:
            with safe_open(self._files[name], "pt") as opened:
                array = opened.get_tensor(name).to(dtype).numpy()
            return onnx_ir.Tensor(array, name=value.name)

        return onnx_ir.LazyTensor(read, dtype=value.dtype, shape=value.shape, name=value.name)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
