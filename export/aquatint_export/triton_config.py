"""Triton model configurations for components, written as ``config.pbtxt``.

Two targets: ``embedded`` runs components with our python-based ``onnx`` and ``tensorrt`` backends, ``ngc`` with
Triton's own ``onnxruntime`` and ``tensorrt`` backends on GPUs. The text-to-image models cannot tell which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from aquatint.contract.model_info import MODEL_INFO_PARAMETER, ModelInfo
from aquatint_export.components import Component, Port

Target = Literal["embedded", "ngc"]
Engine = Literal["onnx", "tensorrt"]
# Triton's own backends: platform and file name.
_NGC: dict[Engine, tuple[str, str]] = {
    "onnx": ("onnxruntime_onnx", "model.onnx"),
    "tensorrt": ("tensorrt_plan", "model.plan"),
}
TARGETS: tuple[Target, ...] = ("embedded", "ngc")

_DTYPES = {torch.float32: "TYPE_FP32", torch.int64: "TYPE_INT64"}
# Long enough for requests that step together to meet, short against one transformer step (milliseconds).
_QUEUE_DELAY_US = 500
# onnxruntime splits rows over threads without changing them, so one instance with every core serves best.
_CPU_INSTANCES = 1


def component_config(
    component: Component, name: str, max_batch_size: int, target: Target, engine: Engine = "onnx"
) -> str:
    """The text of ``config.pbtxt`` for one component served as ``name``."""
    config = model_config_pb2.ModelConfig(name=name, max_batch_size=max_batch_size)
    config.input.extend(_tensor(model_config_pb2.ModelInput, port) for port in component.inputs)
    config.output.extend(_tensor(model_config_pb2.ModelOutput, port) for port in component.outputs)
    config.dynamic_batching.max_queue_delay_microseconds = _QUEUE_DELAY_US
    group = config.instance_group.add(count=_CPU_INSTANCES)
    on_cpu = target == "embedded" and engine == "onnx"
    kinds = model_config_pb2.ModelInstanceGroup
    group.kind = kinds.KIND_CPU if on_cpu else kinds.KIND_GPU
    if target == "embedded":
        config.backend = engine
    else:
        config.platform, config.default_model_filename = _NGC[engine]
    text: str = text_format.MessageToString(config)
    return text


def text_to_image_config(source: str, info: ModelInfo, name: str) -> str:
    """Make a text-to-image model's ``config.pbtxt`` from one in ``model_repository/``: its name, and its ``info``."""
    config = parse_config(source)
    config.name = name
    config.parameters[MODEL_INFO_PARAMETER].string_value = info.model_dump_json()
    text: str = text_format.MessageToString(config)
    return text


def torch_config(component: Component, name: str, max_batch_size: int, skip_layers: Sequence[int]) -> str:
    """The configuration of a transformer run in torch by the ``diffusers`` backend, which chooses its own device."""
    config = parse_config(component_config(component, name, max_batch_size, "embedded"))
    config.backend = "diffusers"
    config.parameters["component"].string_value = component.name
    config.parameters["skip_layers"].string_value = ",".join(str(layer) for layer in skip_layers)
    text: str = text_format.MessageToString(config)
    return text


def diffusers_config(template: str, checkpoint: str) -> str:
    """Make a decoupled model's configuration that runs ``checkpoint`` with the ``diffusers`` backend."""
    config = parse_config(template)
    config.backend = "diffusers"
    config.parameters["checkpoint"].string_value = checkpoint
    text: str = text_format.MessageToString(config)
    return text


def _tensor(message: type, port: Port) -> object:
    # A batched scalar is written [1] with a reshape to []: Triton has no empty dims.
    dims = [-1 if isinstance(axis, str) else axis for axis in port.shape]
    tensor = message(name=port.name, data_type=_DTYPES[port.dtype], dims=dims or [1])
    if not dims:
        tensor.reshape.SetInParent()
    return tensor


def parse_config(text: str) -> model_config_pb2.ModelConfig:
    """Read a ``config.pbtxt``; raises ``text_format.ParseError`` for a field Triton does not know."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())
