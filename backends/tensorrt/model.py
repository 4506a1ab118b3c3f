"""A Triton python-based backend that runs ``model.plan``, one component, on this instance's GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from aquatint_backends.batching import BatchedBackend
from aquatint_backends.tensorrt.engine import Engine
from aquatint_backends.torch_arrays import TorchArrays
from numpy.typing import NDArray

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError


class TritonPythonModel(BatchedBackend):
    """One instance: one engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check and load the engine of this version; called once by Triton."""
        folder = Path(args["model_repository"]) / args["model_version"]
        max_rows = int(json.loads(args["model_config"])["max_batch_size"])
        try:
            self._engine = Engine(folder, device=int(args["model_instance_device_id"]), max_rows=max_rows)
        except AquatintError as error:
            raise pb_utils.TritonModelException(errors.to_wire(error)) from None
        self._arrays = TorchArrays(self._engine.device)
        record = self._engine.record
        self.inputs, self.outputs = list(record.inputs), list(record.outputs)
        self.scalars = {name for name, tensor in record.inputs.items() if len(tensor.shape) == 1}
        self.count_usage(args["model_name"])

    def run(self, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Copy in, run the engine, copy out."""
        with torch.cuda.device(self._engine.device):
            outputs = self._engine({name: self._arrays.from_host(array) for name, array in feed.items()})
            return [self._arrays.to_host(output) for output in outputs]

    def finalize(self) -> None:
        """Free the engine; called once by Triton."""
        del self._engine
