import json
import os
from pathlib import Path
from typing import Any

import pytest
from aquatint_export import Dtype, ExportOptions, Target, export_checkpoint, parity
from aquatint_export.triton_config import parse_config

from aquatint.contract.errors import InvalidConfiguration, ModelRejected
from aquatint.diffusion import served_model
from aquatint.repository import manifest
from tests.checkpoints import MakeCheckpoint

TINY = ExportOptions(name="tiny")
VARIANTS: dict[str, dict[str, Any]] = {
    "sd3.5": {},
    "sd3": {"qk_norm": None, "dual_attention_layers": ()},
    "without t5": {"absent": ("text_encoder_3",), "dual_attention_layers": ()},
    "skip-layer guidance": {
        "num_layers": 3,
        "defaults": {"skip_layer_guidance": {"layers": [0, 1], "start": 0.0, "stop": 0.5}, "num_inference_steps": 8},
    },
    "dynamic shifting": {"scheduler": {"use_dynamic_shifting": True, "shift": 1.0}},
}


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name == "sd3.5" else pytest.mark.slow) for name in VARIANTS]
)
def test_every_kind_of_checkpoint_passes_the_gate(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, variant: str
) -> None:
    source = make_checkpoint(**VARIANTS[variant])
    written = export_checkpoint(str(source), tmp_path / "repository", TINY)
    absent = VARIANTS[variant].get("absent", ())
    expected = {"text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae_decoder"} - set(absent)
    assert set(written.components) == expected
    assert manifest.verify(tmp_path / "repository") == written
    assert all(error < 1e-4 for error in written.parity["components"].values())
    assert all(decibels >= 50 for decibels in written.parity["images_db"].values())
    models = {path.parent.name for path in (tmp_path / "repository").glob("*/config.pbtxt")}
    parts = (expected - {"transformer"}) | {"denoiser"}
    assert models == {"tiny", "tiny_stream"} | {f"tiny_{part}" for part in parts}


@pytest.mark.slow
def test_clip_may_be_absent(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source = make_checkpoint(absent=("text_encoder", "text_encoder_2"))
    export_checkpoint(str(source), tmp_path / "repository", TINY)
    served = served_model.read(tmp_path / "repository" / "tiny" / "1")
    assert [encoder.present for encoder in served.text_encoders] == [False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("target", Target)
def test_half_precision_and_both_targets(make_checkpoint: MakeCheckpoint, tmp_path: Path, target: Target) -> None:
    out = tmp_path / "repository"
    written = export_checkpoint(
        str(make_checkpoint()), out, ExportOptions(name="tiny", target=target, dtype=Dtype.FP16, max_batch_size=8)
    )
    assert written.dtype == "fp16"
    for path in out.glob("*/config.pbtxt"):
        config = parse_config(path.read_text())
        assert config.name == path.parent.name
    config = parse_config((out / "tiny_vae_decoder" / "config.pbtxt").read_text())
    assert config.max_batch_size == 8
    assert config.HasField("dynamic_batching")
    assert [list(tensor.dims) for tensor in config.input] == [[16, -1, -1]]
    denoiser = parse_config((out / "tiny_denoiser" / "config.pbtxt").read_text())
    assert (denoiser.backend, denoiser.parameters["engine"].string_value) == ("denoiser", "onnx")
    assert served_model.read(out / "tiny_denoiser" / "1").max_batch_size == 8
    kinds = {each.instance_group[0].Kind.Name(each.instance_group[0].kind) for each in (config, denoiser)}
    if target is Target.NGC:
        assert config.platform == "onnxruntime_onnx"
        assert kinds == {"KIND_GPU"}
    else:
        assert config.backend == "onnx"
        assert kinds == {"KIND_CPU"}


def test_an_older_layout_is_refused_by_name(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    export_checkpoint(str(make_checkpoint()), tmp_path / "repository", TINY)
    file = tmp_path / "repository" / "tiny" / "1" / served_model.FILE_NAME
    described = json.loads(file.read_text())
    del described["layout"]
    file.write_text(json.dumps(described))
    with pytest.raises(ModelRejected, match="export it again"):
        served_model.read(file.parent)


@pytest.mark.slow
def test_a_failed_gate_publishes_nothing(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_checkpoint(), tmp_path / "place" / "repository"
    export_checkpoint(str(source), out, TINY)
    before = manifest.digest_tree(out)
    monkeypatch.setitem(parity.COMPONENT_BOUND, "fp32", 1e-12)
    monkeypatch.setitem(parity.IMAGE_BOUND_DB, "fp32", 200.0)
    with pytest.raises(ModelRejected, match=r"nothing is published: text_encoder: .*; image 'a flat emoji"):
        export_checkpoint(str(source), out, TINY)
    assert manifest.digest_tree(out) == before
    assert os.listdir(out.parent) == ["repository"]


def test_other_folders_are_not_overwritten(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(InvalidConfiguration, match="choose another folder"):
        export_checkpoint(str(make_checkpoint()), out)
    assert (out / "thesis.txt").read_text() == "precious"


def test_pickles_are_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source = make_checkpoint()
    weights = source / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelRejected, match="cannot be read"):
        export_checkpoint(str(source), tmp_path / "repository")


@pytest.mark.parametrize(
    ("change", "named"),
    [({"_class_name": "StableDiffusionPipeline"}, "StableDiffusionPipeline"), ({"transformer": ["x", "y"]}, "read")],
)
def test_other_pipelines_are_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    source = make_checkpoint()
    index = source / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    with pytest.raises(ModelRejected, match=named):
        export_checkpoint(str(source), tmp_path / "repository")


def test_unsupported_schedulers_are_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="use_karras_sigmas"):
        export_checkpoint(str(make_checkpoint(scheduler={"use_karras_sigmas": True})), tmp_path / "repository")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", Dtype)
def test_one_component_at_a_time(make_checkpoint: MakeCheckpoint, tmp_path: Path, dtype: Dtype) -> None:
    source = make_checkpoint(num_layers=3, defaults={"skip_layer_guidance": {"layers": [0, 1]}})
    written = export_checkpoint(
        str(source), tmp_path / "repository", ExportOptions(name="tiny", dtype=dtype, low_memory=True)
    )
    assert set(written.parity["components"]) == set(written.components)
    assert written.parity["images_db"] == {}
    assert "skip_layers" in written.components["transformer"]["inputs"]


@pytest.mark.slow
def test_a_text_encoder_can_be_dropped(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source = make_checkpoint()
    written = export_checkpoint(
        str(source), tmp_path / "repository", ExportOptions(name="tiny", drop=("text_encoder_3",))
    )
    assert "text_encoder_3" not in written.components
    assert all(decibels >= 50 for decibels in written.parity["images_db"].values())


def test_layers_that_cannot_be_skipped_are_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source = make_checkpoint(defaults={"skip_layer_guidance": {"layers": [1]}})
    with pytest.raises(ModelRejected, match="layers must be from 0 to 0"):
        export_checkpoint(str(source), tmp_path / "repository")
