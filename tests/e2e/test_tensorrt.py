"""TensorRT engines, really built by ``tensorrt_rtx`` on this machine, and what a server without a GPU says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from aquatint_export import Dtype, ExportOptions, Target, TensorRTOptions, export_checkpoint, parity, repositories
from aquatint_export.components import Component
from aquatint_export.engines.tensorrt import open_builder, profile
from aquatint_export.families.sd3 import checkpoint as checkpoints
from aquatint_export.parity import COMPONENT_BOUND
from aquatint_export.serving_gate import TritonRunner
from aquatint_export.triton_config import component_config, parse_config

from aquatint.contract.errors import EngineUnavailable, InvalidConfiguration, ModelRejected
from aquatint.diffusion import served_model
from aquatint.repository import engine_record, manifest
from aquatint.server import TritonServer
from tests.checkpoints import MakeCheckpoint
from tests.e2e.conftest import FREE_PORTS

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COMPONENTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae_decoder")


def components(checkpoint: Path) -> list[Component]:
    return checkpoints.load(checkpoint, str(checkpoint)).components()


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_of_the_mini_checkpoint_builds(
    mini_checkpoint: Path, mini_repository: Path, tmp_path: Path, name: str
) -> None:
    """The engine's inputs, outputs and profile are the ONNX file's and the request limits'.

    Reading them back from the plan needs a CUDA driver, so they are those of the network it was built from.
    """
    served = served_model.read(mini_repository / "mini" / "1")
    (part,) = [part for part in components(mini_checkpoint) if part.name == name]
    source = mini_repository / served.triton_model(name) / "1" / "model.onnx"
    options = TensorRTOptions(weight_streaming=True, workspace_bytes=1 << 30, timing_cache=tmp_path / "cache")
    builder, why = open_builder(options)
    assert why.startswith("tensorrt_rtx 1.")
    stages: list[str] = []
    builder.build(source, tmp_path / "engine", profile(part, served), stages.append)

    record = engine_record.read(tmp_path / "engine")
    graph = onnx.load(source, load_external_data=False).graph
    assert list(record.inputs) == [tensor.name for tensor in graph.input]
    assert list(record.outputs) == [tensor.name for tensor in graph.output]
    assert record.profile.keys() == record.inputs.keys()
    assert record.max_rows == served.max_batch_size
    for tensor, shapes in record.profile.items():
        for fixed, smallest, largest in zip(record.inputs[tensor].shape, shapes.smallest, shapes.largest):
            assert smallest <= largest
            assert fixed == -1 or fixed == smallest == largest
    if name == "transformer":
        assert record.profile["hidden_states"].largest[2:] == [served.max_size // served.vae_scale_factor] * 2
    assert "building engine" in stages
    assert (tmp_path / "cache").stat().st_size > 0
    assert record.plan_bytes > source.stat().st_size / 2


def test_unbuildable_engines_say_why(mini_repository: Path, tmp_path: Path, mini_checkpoint: Path) -> None:
    served = served_model.read(mini_repository / "mini" / "1")
    part = components(mini_checkpoint)[0]
    source = mini_repository / "mini_text_encoder" / "1" / "model.onnx"
    cases = {
        "builds for .*SM89.*, not for SM90": (source, TensorRTOptions(compute_capabilities=("SM90",))),
        "FP32 GEMM is not supported": (source, TensorRTOptions(compute_capabilities=("SM75",))),
        "cannot read": (mini_repository / "manifest.json", TensorRTOptions()),
    }
    for reason, (file, options) in cases.items():
        builder, _ = open_builder(options)
        with pytest.raises((ModelRejected, InvalidConfiguration), match=reason):
            builder.build(file, tmp_path / "engine", profile(part, served))
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("dtype", Dtype)
def test_a_repository_of_engines(make_checkpoint: MakeCheckpoint, tmp_path: Path, dtype: Dtype) -> None:
    source, out = make_checkpoint(), tmp_path / "repository"
    written = export_checkpoint(
        str(source),
        out,
        ExportOptions(
            name="tiny",
            engine="tensorrt",
            dtype=dtype,
            max_batch_size=8,
            tensorrt=TensorRTOptions(compute_capabilities=("SM89",)),
        ),
    )
    assert written.engine == "tensorrt"
    assert manifest.verify(out) == written
    assert written.components["transformer"]["engine"]["compute_capabilities"] == ["sm89"]
    assert not list(out.rglob("model.onnx*"))
    for name in {*COMPONENTS} - {"transformer"}:
        config = parse_config((out / f"tiny_{name}" / "config.pbtxt").read_text())
        assert config.backend == "tensorrt"
        assert engine_record.read(out / f"tiny_{name}" / "1").max_rows == config.max_batch_size
    config = parse_config((out / "tiny_denoiser" / "config.pbtxt").read_text())
    assert (config.backend, config.parameters["engine"].string_value) == ("denoiser", "tensorrt")
    assert engine_record.read(out / "tiny_denoiser" / "1").max_rows == 8
    with pytest.raises(EngineUnavailable, match="no GPUs are available"), TritonServer(out, FREE_PORTS):
        pass
    # Asked to run on a CPU all the same, our backend refuses before it loads anything.
    for path in out.glob("*/config.pbtxt"):
        path.write_text(path.read_text().replace("KIND_GPU", "KIND_CPU"))
    with (
        pytest.raises(EngineUnavailable, match="TensorRT engines need an NVIDIA GPU"),
        TritonServer(out, FREE_PORTS, verify=False),
    ):
        pass


def test_engines_for_ngc(mini_checkpoint: Path, tmp_path: Path) -> None:
    part = components(mini_checkpoint)[0]
    config = parse_config(
        component_config(part, "mini_text_encoder", max_batch_size=8, target=Target.NGC, engine="tensorrt", on_gpu=True)
    )
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "model.plan")
    with pytest.raises(InvalidConfiguration, match="cannot load engines of tensorrt_rtx"):
        export_checkpoint(str(mini_checkpoint), tmp_path / "out", ExportOptions(engine="tensorrt", target=Target.NGC))
    assert not (tmp_path / "out").exists()


def test_the_gate_through_a_server(server: TritonServer, mini_checkpoint: Path) -> None:
    """What engines pass through on a GPU, here over the onnx backend: components called in a real Triton."""
    # The denoiser runs the transformer, which is no model of its own.
    parts = [part for part in components(mini_checkpoint) if part.name != "transformer"]
    with contextlib.closing(TritonRunner(server.grpc_url, "mini", parts)) as runner:
        report = parity.new_report("fp32")
        for part in parts:
            parity.check_component(report, part, parity.reference_outputs(part, seed=1), runner)
    assert parity.conclude(report).components.keys() == {*COMPONENTS} - {"transformer"}
    assert max(report.components.values()) < COMPONENT_BOUND["fp32"]


def test_auto_says_what_it_takes_and_why(
    make_checkpoint: MakeCheckpoint, make_unet_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """TensorRT, then ONNX, then diffusers: what cannot be used here is named with its reason."""
    source = make_checkpoint()
    chosen = {
        engine: (out, why)
        for engine, out, why in repositories(str(source), "x", tmp_path, engine="auto", progress=print)
    }
    assert list(chosen) == ["tensorrt", "onnx", "diffusers"]
    assert chosen["tensorrt"] == (None, "there is no NVIDIA GPU to run TensorRT engines")
    assert chosen["onnx"][0] is not None
    assert manifest.read(chosen["onnx"][0]).engine == "onnx"
    # A second time nothing is exported.
    written = (chosen["onnx"][0] / "manifest.json").stat().st_mtime_ns
    again = list(repositories(str(source), "x", tmp_path, engine="onnx", progress=print))
    assert again[0][1] == chosen["onnx"][0]
    assert (chosen["onnx"][0] / "manifest.json").stat().st_mtime_ns == written
    other = make_unet_checkpoint("sdxl")
    chosen = {
        engine: (out, why)
        for engine, out, why in repositories(str(other), "y", tmp_path, engine="auto", progress=print)
    }
    assert chosen["onnx"][0] is None
    assert "only StableDiffusion3Pipeline checkpoints can be exported" in chosen["onnx"][1]
    assert chosen["diffusers"][0] is not None
