"""A TensorRT engine, tensors in and out, run with the library that built it: ``tensorrt`` or ``tensorrt_rtx``.

``engine.json`` is checked before anything is loaded: an engine of another version, for another GPU, or for fewer rows
than the model's configuration promises is refused with the reason.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from aquatint.contract.errors import DependencyMissing, EngineUnavailable
from aquatint.repository import engine_record
from aquatint.repository.engine_record import EngineRecord

_TORCH = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
}


class Engine:
    """One execution context and its stream."""

    def __init__(self, folder: Path, *, device: int, max_rows: int) -> None:
        """Check and load the engine in ``folder``.

        Raises ``ModelRejected`` if it cannot be used here, ``DependencyMissing`` without its library,
        ``EngineUnavailable`` without a GPU or if it does not load.
        """
        self.record = engine_record.read(folder)
        library = _library(self.record, max_rows)
        self.device = torch.device("cuda", device)
        self._runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine((folder / engine_record.PLAN_NAME).read_bytes())
        if self._engine is None:
            raise EngineUnavailable("the engine cannot be loaded; see the log")
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def __call__(self, feed: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Enqueue one run after what computes its inputs on this device; the outputs are there for what follows.

        Raises ``EngineUnavailable`` for a shape outside the engine's profile.
        """
        outputs = self.record.outputs
        current = torch.cuda.current_stream(self.device)
        tensors = {
            name: tensor.to(_TORCH[self.record.inputs[name].dtype]).contiguous() for name, tensor in feed.items()
        }
        for name, tensor in tensors.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineUnavailable(f"{name}: shape {tuple(tensor.shape)} is outside the engine's profile")
        for name, output in outputs.items():
            shape = tuple(self._context.get_tensor_shape(name))
            tensors[name] = torch.empty(shape, dtype=_TORCH[output.dtype], device=self.device)
        for name, tensor in tensors.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        # TensorRT serializes what runs on the default stream, so it has its own, which waits and is waited for.
        self._stream.wait_stream(current)
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise EngineUnavailable("TensorRT did not run the engine")
        current.wait_stream(self._stream)
        for tensor in tensors.values():
            # Memory that the engine still uses must not be given away when nobody here looks at it any more.
            tensor.record_stream(self._stream)
        return [tensors[name].float() for name in outputs]


def _library(record: EngineRecord, max_rows: int) -> Any:
    """Import the TensorRT library to run an engine with."""
    if not torch.cuda.is_available():
        raise EngineUnavailable("TensorRT engines need an NVIDIA GPU and its driver; there is none here")
    if importlib.util.find_spec(record.library) is None:
        raise DependencyMissing(f"the engine was built by {record.library}, which is not installed here")
    library = importlib.import_module(record.library)
    major, minor = torch.cuda.get_device_capability()
    engine_record.check_usable(
        record,
        library=record.library,
        version=library.__version__,
        capability=f"sm{major}{minor}",
        max_rows=max_rows,
    )
    return library
