"""Runs ``model.plan`` with the library that built it, ``tensorrt`` or ``tensorrt_rtx``, on this instance's GPU.

``engine.json`` is checked before anything is loaded: an engine of another version, for another GPU or for fewer rows
than the model's configuration promises is refused in words.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from aquatint_backends.batching import BatchedBackend
from numpy.typing import NDArray

from aquatint.contract.errors import AquatintError, DependencyMissing, EngineUnavailable
from aquatint.repository import engine_record
from aquatint.repository.engine_record import EngineRecord

_TORCH = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
}


class TritonPythonModel(BatchedBackend):
    """One instance: one execution context and its stream."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check and load the engine of this version; called once by Triton."""
        folder = Path(args["model_repository"]) / args["model_version"]
        config = json.loads(args["model_config"])
        try:
            record = engine_record.read(folder)
            library = _library(record, int(config["max_batch_size"]))
        except AquatintError as error:
            raise pb_utils.TritonModelException(f"{type(error).__name__}: {error}") from None
        self._device = torch.device("cuda", int(args["model_instance_device_id"]))
        self._record = record
        self._runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine((folder / engine_record.PLAN_NAME).read_bytes())
        if self._engine is None:
            raise pb_utils.TritonModelException("the engine cannot be loaded, see the log")
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.inputs, self.outputs = list(record.inputs), list(record.outputs)
        self.scalars = {name for name, tensor in record.inputs.items() if len(tensor.shape) == 1}
        self.count_usage(args["model_name"])

    def run(self, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Copy in, enqueue, copy out."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            tensors = {}
            for name, array in feed.items():
                tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
                tensors[name] = tensor.to(_TORCH[self._record.inputs[name].dtype])
                if not self._context.set_input_shape(name, tuple(tensor.shape)):
                    raise EngineUnavailable(f"{name}: shape {tuple(tensor.shape)} is outside the engine's profile")
            for name in self.outputs:
                shape = tuple(self._context.get_tensor_shape(name))
                tensors[name] = torch.empty(shape, dtype=_TORCH[self._record.outputs[name].dtype], device=self._device)
            for name, tensor in tensors.items():
                self._context.set_tensor_address(name, tensor.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise EngineUnavailable("TensorRT did not run the engine")
            return [tensors[name].float().cpu().numpy() for name in self.outputs]

    def finalize(self) -> None:
        """Free the engine; called once by Triton."""
        del self._context, self._engine, self._runtime


def _library(record: EngineRecord, max_rows: int) -> Any:
    """The TensorRT library to run an engine with. Raises ``ModelRejected``."""
    if not torch.cuda.is_available():
        raise EngineUnavailable("TensorRT engines need an NVIDIA GPU and its driver; there is none here")
    if importlib.util.find_spec(record.library) is None:
        raise DependencyMissing(f"the engine was built by {record.library}, which is not installed here")
    library = importlib.import_module(record.library)
    major, minor = torch.cuda.get_device_capability()
    engine_record.check_usable(record, record.library, library.__version__, f"sm{major}{minor}", max_rows)
    return library
