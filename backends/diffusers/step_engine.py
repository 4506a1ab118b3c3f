"""The transformer in torch, called like the exported one with the rows of many requests.

On a GPU it is compiled with CUDA graphs. Both need few, fixed shapes, so batches are padded to the next bucket of rows.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aquatint_backends.diffusers.placement import Dtype, choose_device, choose_dtype
from diffusers import SD3Transformer2DModel
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from aquatint.contract.errors import DependencyMissing, ModelRejected

_log = logging.getLogger("aquatint.diffusers")

_INPUTS = ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections")
SKIP = "skip_layers"
# GPUs multiply FP8 from Ada on.
_FP8_CAPABILITY = (8, 9)
# Sizes times buckets: beyond torch's default of 8 compiled shapes, it would silently run uncompiled.
_MAX_COMPILED_SHAPES = 256


class StepSettings(BaseModel):
    """The model's parameters. ``compile`` and ``fp8`` are ``auto``/``true``/``false``; ``buckets`` are rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Dtype = "auto"
    compile: str = "auto"
    fp8: bool = False
    buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    skip_layers: tuple[int, ...] = ()

    @classmethod
    def from_parameters(cls, parameters: dict[str, str]) -> StepSettings:
        """Read the settings from a Triton model configuration, where every value is text."""
        fields: dict[str, Any] = {name: parameters[name] for name in cls.model_fields if name in parameters}
        for name in ("buckets", "skip_layers"):
            if name in fields:
                fields[name] = tuple(int(part) for part in fields[name].split(",") if part)
        return cls.model_validate(fields)


class StepEngine:
    """``SD3Transformer2DModel`` on the best device, called with rows of different timesteps."""

    def __init__(self, folder: Path, settings: StepSettings) -> None:
        """Load ``folder``. Raises ``DependencyMissing`` for FP8 without torchao."""
        self._settings = settings
        self.device, why_device = choose_device()
        dtype, why_dtype = choose_dtype(settings.dtype, self.device)
        model = SD3Transformer2DModel.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        self._model = model.to(self.device).eval().requires_grad_(requires_grad=False)
        self.description = f"{self.device} ({why_device}), {dtype or 'native'} ({why_dtype})"
        if settings.fp8:
            self.description += f", {self._quantize()}"
        self._call = self._compiled() if self._wants_compiling() else self._model
        _log.info("transformer: %s", self.description)

    @torch.inference_mode()
    def __call__(self, feed: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the velocity of every row, FP32. Rows that skip layers go into a separate call."""
        rows = {name: torch.from_numpy(np.ascontiguousarray(feed[name])).to(self.device) for name in _INPUTS}
        skip = (
            torch.from_numpy(feed[SKIP] > 0.5) if SKIP in feed else torch.zeros(len(rows["timestep"]), dtype=torch.bool)
        )
        output = torch.empty_like(rows["hidden_states"], dtype=torch.float32)
        for chosen, layers in ((~skip, None), (skip, list(self._settings.skip_layers))):
            if chosen.any():
                part = {name: tensor[chosen.to(self.device)] for name, tensor in rows.items()}
                output[chosen.to(self.device)] = self._padded(part, layers)
        velocity: NDArray[np.float32] = output.cpu().numpy()
        return velocity

    def _padded(self, rows: dict[str, torch.Tensor], layers: list[int] | None) -> torch.Tensor:
        count = len(rows["timestep"])
        bucket = next((size for size in self._settings.buckets if size >= count), count)
        # A repeated last row brings no values that a real row would not.
        padded = {
            name: torch.cat([tensor, tensor[-1:].expand(bucket - count, *tensor.shape[1:])])
            for name, tensor in rows.items()
        }
        return self._run(self._call, padded, layers)[:count].float()

    def _run(self, call: Any, rows: dict[str, torch.Tensor], layers: list[int] | None) -> torch.Tensor:
        dtype = self._model.dtype
        if self.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        output: torch.Tensor = call(
            hidden_states=rows["hidden_states"].to(dtype),
            timestep=rows["timestep"],
            encoder_hidden_states=rows["encoder_hidden_states"].to(dtype),
            pooled_projections=rows["pooled_projections"].to(dtype),
            skip_layers=layers,
            return_dict=False,
        )[0]
        return output

    def _wants_compiling(self) -> bool:
        return self._settings.compile == "true" or (self._settings.compile == "auto" and self.device == "cuda")

    def _compiled(self) -> Any:
        torch._dynamo.config.cache_size_limit = _MAX_COMPILED_SHAPES
        mode = "max-autotune" if self.device == "cuda" else "default"
        self.description += f", torch.compile ({mode})"
        return torch.compile(self._model, mode=mode, dynamic=False)

    @torch.inference_mode()
    def _quantize(self) -> str:
        """Make the linear layers FP8 by torchao; return, in words, which kind and the PSNR against before."""
        try:
            from torchao import quantization  # noqa: PLC0415 - only needed where FP8 is asked for
        except ImportError as error:
            raise DependencyMissing("fp8 needs torchao: pip install torchao") from error
        if self.device == "cuda" and torch.cuda.get_device_capability() >= _FP8_CAPABILITY:
            kind, recipe = "weights and activations", quantization.Float8DynamicActivationFloat8WeightConfig()
        else:
            kind, recipe = (
                "weights only, since this device does not multiply FP8",
                quantization.Float8WeightOnlyConfig(),
            )
        config = self._model.config
        side = config.sample_size
        generator = torch.Generator().manual_seed(0)
        shapes = {
            "hidden_states": (2, config.in_channels, side, side),
            "encoder_hidden_states": (2, 77, config.joint_attention_dim),
            "pooled_projections": (2, config.pooled_projection_dim),
        }
        rows = {name: torch.randn(shape, generator=generator).to(self.device) for name, shape in shapes.items()}
        rows["timestep"] = torch.tensor([900.0, 300.0], device=self.device)
        before = self._run(self._model, rows, None).float()
        quantization.quantize_(self._model, recipe)
        squared = (self._run(self._model, rows, None).float() - before).square().mean()
        peak = before.max() - before.min()
        decibels = float(10.0 * torch.log10(peak.square() / squared))
        return f"FP8 linear layers ({kind}): {decibels:.1f} dB against {self._model.dtype}"


def component_folder(version: Path) -> Path:
    """Return the folder of the weights in a version. Raises ``ModelRejected`` if they are missing."""
    folder = version / "transformer"
    if not (folder / "config.json").is_file():
        raise ModelRejected("the transformer's weights are missing in this version")
    return folder
