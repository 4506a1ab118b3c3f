"""A Triton python-based backend over onnxruntime, for servers without Triton's own ``onnxruntime`` backend.

One session run serves the whole batch of requests; the rows are split back afterwards. Model parameters:
``execution_providers`` (comma-separated, default CUDA when the instance is on a GPU, else CPU) and
``intra_op_num_threads`` (default: all cores).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb_utils
from aquatint_backends.batching import BatchedBackend
from aquatint_backends.cpus import usable_cpus
from aquatint_backends.onnx_providers import choose_providers
from numpy.typing import NDArray

from aquatint.contract import errors
from aquatint.contract.errors import InvalidConfiguration

_DATA_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(double)": "TYPE_FP64",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int32)": "TYPE_INT32",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(bool)": "TYPE_BOOL",
    "tensor(string)": "TYPE_STRING",
}
_DEFAULT_FILE = "model.onnx"
_DEFAULT_MAX_BATCH_SIZE = 32


class TritonPythonModel(BatchedBackend):
    """One instance: one onnxruntime session."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the inputs, outputs and batching that the configuration leaves out, from the model file."""
        config = auto_complete_model_config.as_dict()
        declared = {port["name"] for port in (*config["input"], *config["output"])}
        session = _session(_model_file(Path(pb_utils.get_model_dir()), config), ["CPUExecutionProvider"], threads=1)
        ports = [*session.get_inputs(), *session.get_outputs()]
        # A symbolic first axis everywhere is a batch axis.
        batched = all(port.shape and isinstance(port.shape[0], str) for port in ports)
        if config["max_batch_size"] == 0 and batched and not declared:
            auto_complete_model_config.set_max_batch_size(_DEFAULT_MAX_BATCH_SIZE)
            auto_complete_model_config.set_dynamic_batching()
        batched = batched and auto_complete_model_config.as_dict()["max_batch_size"] > 0
        for port in session.get_inputs():
            if port.name not in declared:
                auto_complete_model_config.add_input(_describe(port, batched=batched))
        for port in session.get_outputs():
            if port.name not in declared:
                auto_complete_model_config.add_output(_describe(port, batched=batched))
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model file of this version; called once by Triton."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        file = _model_file(Path(args["model_repository"]) / args["model_version"], config)
        try:
            providers = choose_providers(
                parameters, kind=args["model_instance_kind"], device=int(args["model_instance_device_id"])
            )
        except InvalidConfiguration as error:
            raise pb_utils.TritonModelException(errors.to_wire(error)) from None
        self._session = _session(file, providers, int(parameters.get("intra_op_num_threads", usable_cpus())))
        self.inputs = [port.name for port in self._session.get_inputs()]
        self.scalars = {port.name for port in self._session.get_inputs() if len(port.shape) == 1}
        self.outputs = [port.name for port in self._session.get_outputs()]
        self.count_usage(args["model_name"])

    def run(self, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the session once."""
        outputs: list[NDArray[Any]] = self._session.run(self.outputs, feed)
        return outputs

    def finalize(self) -> None:
        """Free the session; called once by Triton."""
        del self._session


def _model_file(folder: Path, config: dict[str, Any]) -> Path:
    file = folder / (config.get("default_model_filename") or _DEFAULT_FILE)
    if not file.is_file():
        raise pb_utils.TritonModelException(f"{file.name} is missing in version {folder.name}")
    return file


def _session(file: Path, providers: list[Any], threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=providers)


def _describe(port: Any, *, batched: bool) -> dict[str, Any]:
    shape = port.shape[1:] if batched else port.shape
    dims = [axis if isinstance(axis, int) else -1 for axis in shape]
    return {"name": port.name, "data_type": _DATA_TYPES[port.type], "dims": dims or [1]}
