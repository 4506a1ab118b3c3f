"""The transformer of SD3.5 Medium at full size on one GPU: diffusers, diffusers compiled, and our step engine.

Speed does not depend on weights, so they are random. Prints milliseconds per denoising step with guidance (two rows per
user), the share of the matrix-multiplication limit measured on the same device, and the peak memory, as Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aquatint_backends.diffusers.placement import choose_device, choose_dtype
from aquatint_backends.diffusers.step_engine import StepEngine, StepSettings
from diffusers import SD3Transformer2DModel
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

# transformer/config.json of stabilityai/stable-diffusion-3.5-medium.
MEDIUM: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
_TOKENS = 77 + 256
_WARM_UP = 3
Feed = dict[str, NDArray[np.float32]]


def feed(rows: int, size: int) -> Feed:
    """Make random inputs of ``rows`` images of ``size`` pixels a side."""
    chance = np.random.default_rng(0)
    shapes = {
        "hidden_states": (rows, 16, size // 8, size // 8),
        "encoder_hidden_states": (rows, _TOKENS, MEDIUM["joint_attention_dim"]),
        "pooled_projections": (rows, MEDIUM["pooled_projection_dim"]),
    }
    arrays = {name: chance.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**arrays, "timestep": chance.uniform(0, 1000, rows).astype(np.float32)}


def plain(model: Any, device: str) -> Callable[[Feed], Any]:
    """Call a diffusers transformer as its own pipeline does."""

    @torch.inference_mode()
    def call(rows: Feed) -> torch.Tensor:
        tensors = {name: torch.from_numpy(array).to(device, model.dtype) for name, array in rows.items()}
        output: torch.Tensor = model(**tensors, return_dict=False)[0].float().cpu()
        return output

    return call


def engines(folder: Path, device: str, wanted: list[str]) -> dict[str, Callable[[], Callable[[Feed], Any]]]:
    """Return how to open each engine; only one is open at a time, so that memory is its own."""
    dtype, _ = choose_dtype("auto", device)

    def model() -> Any:
        return SD3Transformer2DModel.from_pretrained(folder, dtype=dtype).to(device).eval()

    known: dict[str, Callable[[], Callable[[Feed], Any]]] = {
        "diffusers": lambda: plain(model(), device),
        "diffusers + torch.compile": lambda: plain(torch.compile(model()), device),
        "aquatint": lambda: StepEngine(folder, StepSettings()),
        "aquatint fp8": lambda: StepEngine(folder, StepSettings(fp8=True)),
    }
    return {name: known[name] for name in known if name in wanted}


def seconds(call: Callable[[Feed], Any], rows: Feed, repeats: int) -> float:
    """Measure the median seconds of one call after warming up."""
    times = []
    for index in range(_WARM_UP + repeats):
        started = time.perf_counter()
        call(rows)
        if index >= _WARM_UP:
            times.append(time.perf_counter() - started)
    return float(np.median(times))


def matmul_limit(device: str, dtype: torch.dtype | None, side: int) -> float:
    """Measure the rate of one large matrix product, multiply-adds counted twice, per second."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def multiply(_: Feed) -> None:
        (a @ b).sum().item()

    return 2.0 * side**3 / seconds(multiply, {}, 10)


def step_flops(model: SD3Transformer2DModel, rows: Feed) -> float:
    """Count the floating-point operations of one call, by torch on shapes alone."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(**{name: torch.empty(array.shape) for name, array in rows.items()}, return_dict=False)
    return float(counter.get_total_flops())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=MEDIUM["num_layers"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--engines", nargs="+", default=["diffusers", "diffusers + torch.compile", "aquatint"])
    options = parser.parse_args()
    device, why = choose_device()
    dtype, _ = choose_dtype("auto", device)
    limit = matmul_limit(device, dtype, 8192 if device == "cuda" else 1024)
    print(f"{device} ({why}), {dtype}, matrix product {limit / 1e12:.2f} TFLOP/s, {options.layers} layers\n")
    print("| engine | size | users | ms/step | images/s | of the limit | vs diffusers | peak GiB |")
    print("|---|---|---|---|---|---|---|---|")
    config = {**MEDIUM, "num_layers": options.layers}
    with torch.device("meta"):
        shapes = SD3Transformer2DModel(**config)
    base: dict[tuple[int, int], float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        SD3Transformer2DModel(**config).to(dtype or torch.float32).save_pretrained(scratch)
        for name, open_engine in engines(Path(scratch), device, options.engines).items():
            call = open_engine()
            for size in options.sizes:
                for users in options.users:
                    rows = feed(2 * users, size)
                    if device == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    step_s = seconds(call, rows, options.repeats)
                    base.setdefault((size, users), step_s)
                    share = step_flops(shapes, rows) / step_s / limit
                    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
                    print(
                        f"| {name} | {size} | {users} | {step_s * 1e3:.1f} | {users / step_s / options.steps:.3f} "
                        f"| {share:.0%} | {base[(size, users)] / step_s:.2f}x | {peak:.1f} |"
                    )
            del call
            if device == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
