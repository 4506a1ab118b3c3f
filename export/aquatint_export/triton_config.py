"""Triton model configurations for components, written as ``config.pbtxt``.

Two targets: ``embedded`` runs components with our python-based ``onnx`` and ``tensorrt`` backends, ``ngc`` with
Triton's own ``onnxruntime`` and ``tensorrt`` backends on GPUs. The text-to-image models cannot tell which.
"""

from __future__ import annotations

import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from aquatint.contract.model_info import MODEL_INFO_PARAMETER, ModelInfo
from aquatint.diffusion.served_model import ServedModel
from aquatint_export.components import Component, TensorSpec
from aquatint_export.options import Target

# Triton's own backends: platform and file name.
_NGC = {"onnx": ("onnxruntime_onnx", "model.onnx"), "tensorrt": ("tensorrt_plan", "model.plan")}
_DTYPES = {torch.float32: "TYPE_FP32", torch.int64: "TYPE_INT64"}
# Long enough for requests that arrive together to meet, short against encoding or decoding one (milliseconds).
_QUEUE_DELAY_US = 500
# onnxruntime splits rows over threads without changing them, so one instance with every core serves best.
_CPU_INSTANCES = 1
_KINDS = model_config_pb2.ModelInstanceGroup


def component_config(
    component: Component, name: str, *, max_batch_size: int, target: Target, engine: str, on_gpu: bool
) -> str:
    """Return the text of ``config.pbtxt`` for one component served as ``name``."""
    config = model_config_pb2.ModelConfig(name=name, max_batch_size=max_batch_size)
    config.input.extend(_tensor(model_config_pb2.ModelInput, spec) for spec in component.inputs)
    config.output.extend(_tensor(model_config_pb2.ModelOutput, spec) for spec in component.outputs)
    config.dynamic_batching.max_queue_delay_microseconds = _QUEUE_DELAY_US
    config.instance_group.add(count=_CPU_INSTANCES, kind=_KINDS.KIND_GPU if on_gpu else _KINDS.KIND_CPU)
    if target is Target.EMBEDDED:
        config.backend = engine
    else:
        config.platform, config.default_model_filename = _NGC[engine]
    text: str = text_format.MessageToString(config)
    return text


def denoiser_config(name: str, served: ServedModel, *, engine: str, on_gpu: bool) -> str:
    """Return the text of ``config.pbtxt`` for the denoiser, whose ``engine`` runs the transformer."""
    config = model_config_pb2.ModelConfig(name=name, backend="denoiser")
    config.instance_group.add(count=1, kind=_KINDS.KIND_GPU if on_gpu else _KINDS.KIND_CPU)
    config.parameters["engine"].string_value = engine
    if (skipping := served.skip_layer_guidance) is not None:
        config.parameters["skip_layers"].string_value = ",".join(str(layer) for layer in skipping.layers)
    text: str = text_format.MessageToString(config)
    return text


def text_to_image_config(source: str, info: ModelInfo, name: str) -> str:
    """Make a text-to-image model's ``config.pbtxt`` from one in ``model_repository/``: its name, and its ``info``."""
    config = parse_config(source)
    config.name = name
    config.parameters[MODEL_INFO_PARAMETER].string_value = info.model_dump_json()
    text: str = text_format.MessageToString(config)
    return text


def diffusers_config(template: str, checkpoint: str) -> str:
    """Make a decoupled model's configuration that runs ``checkpoint`` with the ``diffusers`` backend."""
    config = parse_config(template)
    config.backend = "diffusers"
    config.parameters["checkpoint"].string_value = checkpoint
    text: str = text_format.MessageToString(config)
    return text


def _tensor(message: type, spec: TensorSpec) -> object:
    dims = [-1 if isinstance(axis, str) else axis for axis in spec.shape]
    return message(name=spec.name, data_type=_DTYPES[spec.dtype], dims=dims)


def parse_config(text: str) -> model_config_pb2.ModelConfig:
    """Read a ``config.pbtxt``; raises ``text_format.ParseError`` for a field Triton does not know."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())
