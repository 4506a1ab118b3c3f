"""How much memory a model's weights take, and what its arithmetic costs: ``python -m aquatint_benchmarks.sizing``.

Counted from the models' published shapes, without weights; nothing here is measured. An image costs
``steps x rows x (2 x parameters x tokens + attention)`` floating-point operations; what a GPU reaches of its peak is
assumed, not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from aquatint_benchmarks.sd35 import MEDIUM
from diffusers import SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

# transformer/config.json of stabilityai/stable-diffusion-3.5-large.
LARGE: dict[str, Any] = {
    **MEDIUM,
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
    "dual_attention_layers": (),
}
# text_encoder*/config.json of the same repositories.
CLIP_L = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, projection_dim=768)
CLIP_G = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, projection_dim=1280)
T5_XXL = T5Config(
    vocab_size=32128, d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, feed_forward_proj="gated-gelu"
)
_PIXELS, _TEXT_TOKENS, _STEPS, _ROWS = 1024, 77 + 256, 28, 2
_GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A GPU: memory in GiB, and peak of dense FP16 matrix products in TFLOP/s, from its maker's data sheet."""

    name: str
    memory_gib: int
    peak_tflops: float


GPUS = (
    Gpu("A10", 24, 125),
    Gpu("L40S", 48, 362),
    Gpu("A100", 80, 312),
    Gpu("H100 SXM", 80, 989),
    Gpu("H200", 141, 989),
)
_REACHED = 0.4


def parameters(kind: type[torch.nn.Module], config: Any) -> int:
    """Count the parameters of a model that is built without memory."""
    with torch.device("meta"):
        module = kind(**config) if isinstance(config, dict) else kind(config)
    return sum(parameter.numel() for parameter in module.parameters())


def image_flops(config: dict[str, Any]) -> float:
    """Compute the floating-point operations of one image."""
    tokens = (_PIXELS // 8 // config["patch_size"]) ** 2 + _TEXT_TOKENS
    width = config["num_attention_heads"] * config["attention_head_dim"]
    attentions = config["num_layers"] + len(config["dual_attention_layers"])
    step = 2 * parameters(SD3Transformer2DModel, config) * tokens + 4 * attentions * tokens**2 * width
    return float(_STEPS * _ROWS * step)


def rows() -> Iterator[tuple[str, ...]]:
    """Tabulate models: weights in FP16 with and without T5, and for each GPU the fit and the computed seconds."""
    clip = parameters(CLIPTextModelWithProjection, CLIP_L) + parameters(CLIPTextModelWithProjection, CLIP_G)
    t5 = parameters(T5EncoderModel, T5_XXL)
    for name, config in (("SD3.5 Medium", MEDIUM), ("SD3.5 Large", LARGE)):
        small = 2 * (parameters(SD3Transformer2DModel, config) + clip) / _GIB
        large = small + 2 * t5 / _GIB
        cells = []
        for gpu in GPUS:
            seconds = image_flops(config) / (_REACHED * gpu.peak_tflops * 1e12)
            # A fifth for activations, engines' scratch memory and the VAE.
            fits = "with T5" if 1.2 * large < gpu.memory_gib else "without T5" if 1.2 * small < gpu.memory_gib else "no"
            cells.append(f"{fits}, {seconds:.1f} s" if fits != "no" else fits)
        yield name, f"{large:.1f}", f"{small:.1f}", *cells


def main() -> None:
    """Print the table as Markdown."""
    head = ("model", "GiB with T5", "GiB without", *(f"{gpu.name} ({gpu.memory_gib} GiB)" for gpu in GPUS))
    for cells in (head, ("---",) * len(head), *rows()):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
