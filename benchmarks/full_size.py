"""SD3.5 Medium's sizes without its weights: what a server adds to the time that the transformer takes.

The denoiser's ``timed`` engine sleeps for every step and keeps its arrays to itself as a GPU does; text encoders and
VAE are small graphs that give tensors of the real shapes. Everything between them is the real server, and nothing needs
a GPU.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from aquatint_benchmarks.bench import export
from aquatint_benchmarks.metrics import snapshot
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2

from aquatint.client import connect
from aquatint.contract.model_info import MODEL_INFO_PARAMETER
from aquatint.contract.request import GenerationRequest
from aquatint.diffusion import served_model
from aquatint.diffusion.served_model import ServedModel, TextEncoder
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings

_NAME = "mini"
_OPSET = 20
_REQUESTS = 3
# About what a step of Medium takes at 1024 and at 512 pixels on a large GPU.
STEPS_MS = (30.0, 8.0)
# From the configurations of stabilityai/stable-diffusion-3.5-medium.
_ENCODERS = {
    "text_encoder": {"tokens": 77, "hidden_size": 768, "projection_dim": 768},
    "text_encoder_2": {"tokens": 77, "hidden_size": 1280, "projection_dim": 1280},
    "text_encoder_3": {"tokens": 256, "hidden_size": 4096, "projection_dim": 0},
}
_MEDIUM = {
    "default_width": 1024,
    "default_height": 1024,
    "pixel_unit": 16,
    "min_size": 256,
    "max_size": 1440,
    "vae_scale_factor": 8,
    "latent_channels": 16,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "preview_factors": [[0.0, 0.0, 0.0]] * 17,
}


@dataclass(frozen=True)
class Lost:
    """One load: what clients got, and the share of the time with requests in flight in which the engine waited."""

    step_ms: float
    clients: int
    images_per_s: float
    rows_per_batch: float
    lost: float


def run(exported: Path, folder: Path, *, step_ms: float, clients: list[int], steps: int = 12) -> Iterator[Lost]:
    """Serve the sizes of Medium, made from the mini checkpoint's repository, and load it with every number of clients.

    Steps take ``step_ms``; every client sends three requests of ``steps`` steps, one after another.
    """
    repository = write_repository(exported, folder, step_ms=step_ms)
    with TritonServer(repository, ServerSettings(http_port=0, grpc_port=0, metrics_port=0), verify=False) as server:
        _generate(server.grpc_url, clients=1, requests=1, steps=2)
        for count in clients:
            before = snapshot(server.metrics_url)
            _generate(server.grpc_url, clients=count, requests=_REQUESTS, steps=steps)
            used = snapshot(server.metrics_url) - before
            yield Lost(
                step_ms=step_ms,
                clients=count,
                images_per_s=used.images / used.wall_s,
                rows_per_batch=used.denoiser_rows / used.denoiser_batches,
                lost=1.0 - used.busy_s["denoiser"] / used.active_s,
            )


def table(checkpoint: Path, *, clients: list[int], say: Callable[[str], None]) -> str:
    """Measure both lengths of a step with every number of clients; return a Markdown table."""
    rows: list[Lost] = []
    with tempfile.TemporaryDirectory() as scratch:
        exported = export(checkpoint, "onnx", out=Path(scratch) / "exported", say=say)
        for step_ms in STEPS_MS:
            say(f"steps of {step_ms:g} ms")
            rows += run(exported, Path(scratch) / f"{step_ms:g}", step_ms=step_ms, clients=clients)
    return markdown(rows)


def markdown(rows: Iterable[Lost]) -> str:
    """Tabulate what was measured."""
    lines = ["| step ms | clients | images/s | rows/batch | time lost between steps |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.step_ms:g} | {row.clients} | {row.images_per_s:.2f} | {row.rows_per_batch:.1f} | {row.lost:.1%} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def _generate(url: str, *, clients: int, requests: int, steps: int) -> None:
    def ask(client_number: int) -> None:
        with connect(url=url, protocol="grpc", timeout_s=300.0) as client:
            for number in range(requests):
                seed = client_number * requests + number
                client.generate(GenerationRequest(prompt="a fox", seed=seed, num_inference_steps=steps))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))


def write_repository(exported: Path, folder: Path, *, step_ms: float) -> Path:
    """Write a repository of Medium's shapes from the mini checkpoint's."""
    shutil.copytree(exported, folder)
    served = _served(served_model.read(folder / _NAME / "1"))
    for encoder in served.text_encoders:
        _replace_component(folder / served.triton_model(encoder.component), _encoder_graph(encoder))
    _replace_component(folder / served.triton_model("vae_decoder"), _decoder_graph(served))
    for model in (_NAME, f"{_NAME}_stream"):
        for encoder in served.text_encoders:
            _pad(folder / model / "1" / encoder.tokenizer / "tokenizer.json", encoder.tokens)
        config = _read_config(folder / model)
        config.parameters[MODEL_INFO_PARAMETER].string_value = served.info().model_dump_json()
        _write_config(folder / model, config)
    denoiser = folder / served.triton_model("transformer")
    config = _read_config(denoiser)
    config.parameters["engine"].string_value = "timed"
    config.parameters["step_ms"].string_value = str(step_ms)
    _write_config(denoiser, config)
    for version in (folder / _NAME / "1", folder / f"{_NAME}_stream" / "1", denoiser / "1"):
        (version / served_model.FILE_NAME).write_text(served.model_dump_json())
    return folder


def _served(mini: ServedModel) -> ServedModel:
    encoders = [encoder.model_copy(update=dict(_ENCODERS[encoder.component])) for encoder in mini.text_encoders]
    return mini.model_copy(update={**_MEDIUM, "text_encoders": encoders})


def _read_config(model: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def _write_config(model: Path, config: model_config_pb2.ModelConfig) -> None:
    (model / "config.pbtxt").write_text(text_format.MessageToString(config))


def _replace_component(model: Path, graph: onnx.GraphProto) -> None:
    """Put another graph in the place of a component's; the backend reads its shapes from it."""
    opset = helper.make_opsetid("", _OPSET)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), model / "1" / "model.onnx")
    config = _read_config(model)
    del config.input[:], config.output[:]
    _write_config(model, config)


def _pad(file: Path, tokens: int) -> None:
    tokenizer = Tokenizer.from_file(str(file))
    padding = tokenizer.padding or {}
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens, pad_id=padding["pad_id"], pad_token=padding["pad_token"])
    tokenizer.save(str(file))


def _encoder_graph(encoder: TextEncoder) -> onnx.GraphProto:
    """Make every token's embedding its id times a vector, and the pooled one their mean."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["ids", "last"], ["column"]),
        helper.make_node("Mul", ["column", "vector"], ["prompt_embeds"]),
    ]
    outputs: list[tuple[str, list[str | int]]] = [("prompt_embeds", ["batch", "sequence", encoder.hidden_size])]
    if encoder.projection_dim:
        nodes.append(helper.make_node("ReduceMean", ["prompt_embeds", "middle"], ["pooled_prompt_embeds"], keepdims=0))
        outputs.append(("pooled_prompt_embeds", ["batch", encoder.projection_dim]))
    constants = {
        "last": np.array([-1]),
        "middle": np.array([1]),
        "vector": np.full(encoder.hidden_size, 1e-4, np.float32),
    }
    return helper.make_graph(
        nodes,
        encoder.component,
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def _decoder_graph(served: ServedModel) -> onnx.GraphProto:
    """Enlarge the first three channels of the latents to the image's size."""
    scale = served.vae_scale_factor
    nodes = [
        helper.make_node("Slice", ["latent_sample", "start", "end", "channels"], ["colours"]),
        helper.make_node("Resize", ["colours", "", "scales"], ["sample"], mode="nearest"),
    ]
    constants = {
        "start": np.array([0]),
        "end": np.array([3]),
        "channels": np.array([1]),
        "scales": np.array([1, 1, scale, scale], np.float32),
    }
    latent: list[str | int] = ["batch", served.latent_channels, "h", "w"]
    return helper.make_graph(
        nodes,
        "vae_decoder",
        [helper.make_tensor_value_info("latent_sample", TensorProto.FLOAT, latent)],
        [helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
