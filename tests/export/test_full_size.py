"""Real SD3.5 layers: the published widths with fewer layers and random weights, held or streamed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from aquatint_export import onnx_export, parity
from aquatint_export.components import Component, TensorSpec
from aquatint_export.families.sd3 import streaming
from aquatint_export.families.sd3.modules import Clip, wrap
from aquatint_export.runner import OnnxRunner
from diffusers import SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

pytestmark = pytest.mark.slow

# transformer/config.json of stabilityai/stable-diffusion-3.5-medium and -large.
COMMON = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "qk_norm": "rms_norm",
}
MEDIUM = {
    **COMMON,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
}
LARGE = {
    **COMMON,
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
    "dual_attention_layers": (),
}
# text_encoder_2/config.json (OpenCLIP bigG) and text_encoder_3/config.json (T5 v1.1 XXL).
CLIP_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
    "max_position_embeddings": 77,
    "vocab_size": 49408,
}
T5_XXL: dict[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 32128,
}
LATENT = (16, "latent_height", "latent_width")
BOUND = 1e-4
_Model = TypeVar("_Model", bound=nn.Module)


def transformer_component(module: nn.Module) -> Component:
    ports = (
        TensorSpec("hidden_states", torch.float32, LATENT),
        TensorSpec("timestep", torch.float32, ()),
        TensorSpec("encoder_hidden_states", torch.float32, ("sequence", 4096)),
        TensorSpec("pooled_projections", torch.float32, (2048,)),
    )
    return Component("transformer", module, ports, (TensorSpec("noise_pred", torch.float32, LATENT),))


def random_weights(module: _Model) -> _Model:
    """Outputs of untrained adaptive norms are zero; these are not, and neither do they grow without bound."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    return module.eval().requires_grad_(requires_grad=False)


def check(component: Component, path: Path) -> None:
    report = parity.new_report("fp32")
    references = parity.reference_outputs(component, seed=1)
    parity.check_component(report, component, references, OnnxRunner({component.name: path}))
    assert parity.conclude(report).components[component.name] < BOUND


@pytest.mark.parametrize("config", [MEDIUM, LARGE], ids=["medium", "large"])
def test_transformers(config: dict[str, Any], tmp_path: Path) -> None:
    module = SD3Transformer2DModel(**{**config, "num_layers": 2})
    component = transformer_component(wrap("transformer", random_weights(module)))
    check(component, onnx_export.export(component, tmp_path))


def test_clip_g(tmp_path: Path) -> None:
    module = random_weights(CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G, num_hidden_layers=2)))
    outputs = (
        TensorSpec("prompt_embeds", torch.float32, ("sequence", 1280)),
        TensorSpec("pooled_prompt_embeds", torch.float32, (1280,)),
    )
    inputs = (TensorSpec("input_ids", torch.int64, ("sequence",)),)
    component = Component("text_encoder_2", Clip(module), inputs, outputs, CLIP_G["vocab_size"], 77)
    check(component, onnx_export.export(component, tmp_path))


def test_t5_xxl(tmp_path: Path) -> None:
    module = random_weights(T5EncoderModel(T5Config(**T5_XXL, num_layers=1)))
    inputs = (TensorSpec("input_ids", torch.int64, ("sequence",)),)
    outputs = (TensorSpec("prompt_embeds", torch.float32, ("sequence", 4096)),)
    wrapped = wrap("text_encoder_3", module)
    component = Component("text_encoder_3", wrapped, inputs, outputs, T5_XXL["vocab_size"], 256)
    check(component, onnx_export.export(component, tmp_path))


def write_checkpoint(folder: Path, layers: int) -> SD3Transformer2DModel:
    """A transformer of Medium's width, saved in shards as the hub has it."""
    module = random_weights(SD3Transformer2DModel(**{**MEDIUM, "num_layers": layers}))
    module.save_pretrained(folder / "transformer", max_shard_size="200MB")
    # Hubs keep other precisions beside the weights; they must not be read.
    (folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not this one")
    return module


def test_streamed_weights_are_the_same_model(tmp_path: Path) -> None:
    component = transformer_component(wrap("transformer", write_checkpoint(tmp_path, layers=2)))
    assert len(list((tmp_path / "transformer").glob("*-of-*.safetensors"))) > 1
    check(component, streaming.export(component, tmp_path, tmp_path / "out", dtype="fp32"))


_MEASURE = """
import resource, sys
from pathlib import Path
from aquatint_export.families.sd3 import large, streaming
from aquatint_export.families.sd3.modules import wrap
from tests.export.test_full_size import transformer_component
folder = Path(sys.argv[1])
component = transformer_component(wrap("transformer", large.described(folder, "transformer")))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
streaming.export(component, folder, folder / "out", dtype="fp32")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    """A process that streams gigabytes of weights holds a fraction of them."""
    write_checkpoint(tmp_path, layers=6)
    done = subprocess.run([sys.executable, "-c", _MEASURE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    weights = (tmp_path / "out" / "model.onnx.data").stat().st_size
    assert weights > 2.0e9
    assert int(done.stdout.split()[-1]) < weights / 3


def test_missing_weights_are_told(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, layers=1)
    index = next((tmp_path / "transformer").glob("*.index.json"))
    shards = sorted((tmp_path / "transformer").glob("*-of-*.safetensors"))
    shards[0].unlink()
    listed = json.loads(index.read_text())
    assert shards[0].name in listed["weight_map"].values()
    component = transformer_component(nn.Identity())
    with pytest.raises(Exception, match=r"the weight .* is missing"):
        streaming.export(component, tmp_path, tmp_path / "out", dtype="fp32")
    assert not (tmp_path / "out").exists()
