"""The components too large to hold beside the others: their modules without weights, and with weights for a while."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from torch import nn
from transformers import T5Config, T5EncoderModel

# Only these are large: 10 and 19 GB in FP32 for SD3.5 Medium.
COMPONENTS = ("transformer", "text_encoder_3")


def build(folder: Path, component: str) -> nn.Module:
    """Build a component as its configuration describes it, on the current device and in the default dtype."""
    config = json.loads((folder / component / "config.json").read_text())
    if component == "transformer":
        built: nn.Module = SD3Transformer2DModel.from_config(config)
    else:
        built = T5EncoderModel(T5Config.from_dict(config))
    return built


def described(folder: Path, component: str) -> nn.Module:
    """Build a component with its configuration and shapes, and no weights (on torch's ``meta`` device)."""
    with torch.device("meta"):
        return build(folder, component)


@contextlib.contextmanager
def loaded(folder: Path, component: str) -> Iterator[nn.Module]:
    """Load a component's weights in FP32, freed when the block ends."""
    kind = SD3Transformer2DModel if component == "transformer" else T5EncoderModel
    module = kind.from_pretrained(folder / component, dtype=torch.float32, use_safetensors=True)
    yield module.eval().requires_grad_(requires_grad=False)
    del module
    gc.collect()
