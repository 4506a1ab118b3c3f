"""Modules that take and give what the exported components do, in FP32, around those of diffusers and transformers."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.models.embeddings import PatchEmbed
from torch import Tensor, nn


class Clip(nn.Module):
    """A CLIP text encoder: the states SD3 conditions on, and the pooled projection."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ``(rows, tokens)`` to ``(rows, tokens, hidden)`` and ``(rows, projection)``."""
        output = self.model(input_ids, output_hidden_states=True)
        # SD3 conditions on the last but one layer.
        return output.hidden_states[-2].float(), output.text_embeds.float()


class T5(nn.Module):
    """T5's encoder: its last states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode ``(rows, tokens)`` to ``(rows, tokens, hidden)``."""
        embeds: Tensor = self.model(input_ids)[0]
        return embeds.float()


class _Transformer(nn.Module):
    def __init__(self, model: SD3Transformer2DModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, pooled_projections: Tensor
    ) -> Tensor:
        dtype = self.model.dtype
        with _exportable(self.model):
            noise_pred: Tensor = self.model(
                hidden_states=hidden_states.to(dtype),
                timestep=timestep,
                encoder_hidden_states=encoder_hidden_states.to(dtype),
                pooled_projections=pooled_projections.to(dtype),
                return_dict=False,
            )[0]
        return noise_pred.float()


class _SkippableBlock(nn.Module):
    """A block that leaves alone the rows its gate marks."""

    def __init__(self, block: nn.Module, gate: list[Tensor]) -> None:
        super().__init__()
        self.block = block
        self.gate = gate

    @property
    def context_pre_only(self) -> bool:
        """Read by the transformer's loop."""
        return bool(self.block.context_pre_only)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, joint_attention_kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        context, hidden = self.block(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            temb=temb,
            joint_attention_kwargs=joint_attention_kwargs,
        )
        skip = self.gate[0][:, None, None] > 0.5
        return torch.where(skip, encoder_hidden_states, context), torch.where(skip, hidden_states, hidden)


class _SkippingTransformer(nn.Module):
    """A transformer whose rows choose for themselves whether to go through ``layers``; weights are shared."""

    def __init__(self, model: SD3Transformer2DModel, layers: Sequence[int]) -> None:
        super().__init__()
        self.gate: list[Tensor] = []
        clone = copy.copy(model)
        # The copy shares its dictionary of parts with the original, which must keep its blocks.
        clone.__dict__["_modules"] = dict(model._modules)
        blocks = [
            _SkippableBlock(block, self.gate) if index in layers else block
            for index, block in enumerate(model.transformer_blocks)
        ]
        clone.transformer_blocks = nn.ModuleList(blocks)
        self.wrapped = _Transformer(clone)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        skip_layers: Tensor,
    ) -> Tensor:
        self.gate[:] = [skip_layers]
        noise_pred: Tensor = self.wrapped(hidden_states, timestep, encoder_hidden_states, pooled_projections)
        self.gate.clear()
        return noise_pred


def weight_name(initializer: str) -> str | None:
    """Return the checkpoint's name of a graph's weight; ``None`` for constants of the graph."""
    name = initializer.removeprefix("wrapped.")
    if not name.startswith("model."):
        return None
    return re.sub(r"(transformer_blocks\.\d+)\.block\.", r"\1.", name.removeprefix("model."))


@contextlib.contextmanager
def _exportable(module: nn.Module) -> Iterator[None]:
    """Crop position embeddings in a way that ONNX can express for every size, while active.

    diffusers slices ``[(max - n) // 2 : (max - n) // 2 + n]``. The exporter folds the end to ``n + (-n) // 2``, and
    ONNX divides integers towards zero where Python floors, so odd sizes come out one patch too long. Indices avoid it.
    """
    embeds = [part for part in module.modules() if isinstance(part, PatchEmbed)]
    for embed in embeds:
        embed.cropped_pos_embed = lambda height, width, embed=embed: _crop(embed, height, width)
    try:
        yield
    finally:
        for embed in embeds:
            del embed.cropped_pos_embed


def _crop(embed: PatchEmbed, height: int, width: int) -> Tensor:
    side = embed.pos_embed_max_size
    rows, columns = height // embed.patch_size, width // embed.patch_size
    grid = embed.pos_embed.reshape(1, side, side, -1)
    grid = grid.index_select(1, torch.arange(rows) + (side - rows) // 2)
    grid = grid.index_select(2, torch.arange(columns) + (side - columns) // 2)
    cropped: Tensor = grid.reshape(1, rows * columns, -1)
    return cropped


class VaeDecoder(nn.Module):
    """The decoding half of the autoencoder."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        """Decode ``(rows, channels, h, w)`` to ``(rows, 3, height, width)`` in -1..1."""
        sample: Tensor = self.vae.decode(latent_sample.to(self.vae.dtype), return_dict=False)[0]
        return sample.float()


def wrap(component: str, model: nn.Module, skip_layers: Sequence[int] = ()) -> nn.Module:
    """Wrap a transformer or T5 encoder to have the inputs and outputs of its component."""
    if component != "transformer":
        return T5(model)
    return _SkippingTransformer(model, skip_layers) if skip_layers else _Transformer(model)
