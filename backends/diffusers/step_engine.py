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
from aquatint_backends.torch_arrays import TorchArrays
from diffusers import SD3Transformer2DModel
from pydantic import BaseModel, ConfigDict

from aquatint.contract.errors import DependencyMissing, ModelRejected
from aquatint.diffusion.rows import Tensors

_log = logging.getLogger("aquatint.diffusers")

_CONDITIONING = ("encoder_hidden_states", "pooled_projections")
_INPUTS = ("hidden_states", "timestep", *_CONDITIONING)
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
        # As it came, and padded.
        self._conditioning: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._called: torch.cuda.Event | None = None
        self.device, why_device = choose_device()
        dtype, why_dtype = choose_dtype(settings.dtype, self.device)
        model = SD3Transformer2DModel.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        self._model = model.to(self.device).eval().requires_grad_(requires_grad=False)
        self.arrays = TorchArrays(self.device)
        self.description = f"{self.device} ({why_device}), {dtype or 'native'} ({why_dtype})"
        if settings.fp8:
            self.description += f", {self._quantize()}"
        self._call = self._compiled() if self._wants_compiling() else self._model
        _log.info("transformer: %s", self.description)

    @torch.inference_mode()
    def __call__(self, inputs: Tensors) -> torch.Tensor:
        """Predict the velocity of every row, FP32 on the device. Rows that skip layers go in a call of their own.

        Latents and conditioning may be numpy's or the device's.
        """
        rows = {name: torch.as_tensor(inputs[name], device=self.device) for name in _INPUTS}
        # Compared on the host, where a choice of rows does not have to wait for the device.
        skips = inputs[SKIP] > 0.5 if SKIP in inputs else np.zeros(len(inputs["timestep"]), bool)
        if not skips.any():
            output = self._padded(rows, None)
        else:
            output = torch.empty_like(rows["hidden_states"], dtype=torch.float32)
            for chosen, layers in ((~skips, None), (skips, list(self._settings.skip_layers))):
                if chosen.any():
                    index = torch.from_numpy(np.flatnonzero(chosen)).to(self.device)
                    output[index] = self._padded({name: tensor[index] for name, tensor in rows.items()}, layers)
        self._keep_pace()
        return output

    def _keep_pace(self) -> None:
        """Wait for the call before this one, so that a GPU always has work and is never more than a step behind."""
        if self.device != "cuda":
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record()
        self._called, before = event, self._called
        if before is not None:
            before.synchronize()

    def _padded(self, rows: dict[str, torch.Tensor], layers: list[int] | None) -> torch.Tensor:
        count = len(rows["timestep"])
        bucket = next((size for size in self._settings.buckets if size >= count), count)
        padded = {name: self._pad(name, tensor, bucket) for name, tensor in rows.items()}
        # A compiled call may write its next answer where this one is.
        return self._run(self._call, padded, layers)[:count].float().clone()

    def _pad(self, name: str, tensor: torch.Tensor, rows: int) -> torch.Tensor:
        """Repeat the last row, which cannot bring values that a real row would not; cast to the model's precision.

        Conditioning is large and stays the same for as long as the same requests step together.
        """
        kept = self._conditioning.get(name)
        if kept is not None and kept[0] is tensor and len(kept[1]) == rows:
            return kept[1]
        missing = rows - len(tensor)
        padded = torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor
        if name != "timestep":
            padded = padded.to(self._model.dtype)
        if name in _CONDITIONING:
            self._conditioning[name] = (tensor, padded)
        return padded

    def _run(self, call: Any, rows: dict[str, torch.Tensor], layers: list[int] | None) -> torch.Tensor:
        if self.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        output: torch.Tensor = call(
            **rows,
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
        rows = {
            name: torch.randn(shape, generator=generator).to(self.device, self._model.dtype)
            for name, shape in shapes.items()
        }
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
