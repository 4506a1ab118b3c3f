"""Every component as one ONNX graph: a wrapper module, its inputs and outputs, and which axes are dynamic."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.models.embeddings import PatchEmbed
from torch import Tensor, nn

from aquatint_export.checkpoint import Checkpoint


@dataclass(frozen=True)
class Port:
    """One input or output. ``shape`` leaves out the batch axis; a string names a dynamic axis."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Component:
    """A part of the model that is exported and served on its own. All floats cross its border as FP32."""

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    vocab_size: int = 0
    max_tokens: int = 0


class _Clip(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(input_ids, output_hidden_states=True)
        # SD3 conditions on the last but one layer.
        return output.hidden_states[-2].float(), output.text_embeds.float()


class _T5(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
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
    """The checkpoint's name of a graph's weight; ``None`` for constants of the graph."""
    name = initializer.removeprefix("wrapped.")
    if not name.startswith("model."):
        return None
    return re.sub(r"(transformer_blocks\.\d+)\.block\.", r"\1.", name.removeprefix("model."))


@contextlib.contextmanager
def exportable(module: nn.Module) -> Iterator[None]:
    """While active, position embeddings are cropped in a way that ONNX can express for every size.

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


class _VaeDecoder(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        sample: Tensor = self.vae.decode(latent_sample.to(self.vae.dtype), return_dict=False)[0]
        return sample.float()


def wrap(component: str, model: nn.Module, skip_layers: Sequence[int] = ()) -> nn.Module:
    """A transformer or T5 encoder with the inputs and outputs of its component."""
    if component != "transformer":
        return _T5(model)
    return _SkippingTransformer(model, skip_layers) if skip_layers else _Transformer(model)


def components(checkpoint: Checkpoint) -> list[Component]:
    """The present text encoders, the transformer and the VAE decoder, around the checkpoint's own modules."""
    pipeline = checkpoint.pipeline
    found = [_text_encoder(checkpoint, encoder) for encoder in checkpoint.text_encoders() if encoder.present]
    config = pipeline.transformer.config
    latent = (config.in_channels, "latent_height", "latent_width")
    skippable = (Port("skip_layers", torch.float32, ()),) if checkpoint.skip_layers else ()
    transformer = Component(
        "transformer",
        wrap("transformer", pipeline.transformer, checkpoint.skip_layers),
        (
            Port("hidden_states", torch.float32, latent),
            Port("timestep", torch.float32, ()),
            Port("encoder_hidden_states", torch.float32, ("sequence", config.joint_attention_dim)),
            Port("pooled_projections", torch.float32, (config.pooled_projection_dim,)),
            *skippable,
        ),
        (Port("noise_pred", torch.float32, latent),),
    )
    decoder = Component(
        "vae_decoder",
        _VaeDecoder(pipeline.vae),
        (Port("latent_sample", torch.float32, latent),),
        (Port("sample", torch.float32, (3, "height", "width")),),
    )
    return [*found, transformer, decoder]


def _text_encoder(checkpoint: Checkpoint, encoder: Any) -> Component:
    model = getattr(checkpoint.pipeline, encoder.component)
    inputs = (Port("input_ids", torch.int64, ("sequence",)),)
    outputs = [Port("prompt_embeds", torch.float32, ("sequence", encoder.hidden_size))]
    if encoder.kind == "clip":
        outputs.append(Port("pooled_prompt_embeds", torch.float32, (encoder.projection_dim,)))
    module = _Clip(model) if encoder.kind == "clip" else _T5(model)
    return Component(encoder.component, module, inputs, tuple(outputs), model.config.vocab_size, encoder.tokens)


def random_inputs(
    component: Component, batch: int, axes: dict[str, int], generator: torch.Generator
) -> dict[str, Tensor]:
    """Fresh random inputs of plausible scale; ``axes`` gives the length of each dynamic axis.

    Sequences are cut to what a text encoder can take.
    """
    if component.max_tokens:
        axes = {**axes, "sequence": min(axes["sequence"], component.max_tokens)}
    inputs = {}
    for port in component.inputs:
        shape = (batch, *(axes[axis] if isinstance(axis, str) else axis for axis in port.shape))
        if port.dtype == torch.int64:
            inputs[port.name] = torch.randint(0, component.vocab_size, shape, generator=generator)
        elif port.name == "timestep":
            inputs[port.name] = torch.rand(shape, generator=generator) * 1000.0
        elif port.name == "skip_layers":
            inputs[port.name] = torch.randint(0, 2, shape, generator=generator).float()
        else:
            inputs[port.name] = torch.randn(shape, generator=generator)
    return inputs
