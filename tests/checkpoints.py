"""Checkpoints of every kind with random weights and a few kilobytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from aquatint_pipelines.mini import model as models
from aquatint_pipelines.mini import recipe as recipes
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from aquatint.repository import checkpoint_info

SENTENCES = ["a flat emoji of a fox on a blue background", "Two apples, noto style", "draw an owl"] * 5
RECIPE = recipes.load("cpu").model.model_copy(
    update={
        "vae_block_out_channels": [8, 8, 16, 16],
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "text_hidden_size": 32,
        "text_tokens": 12,
        "vocab_size": 300,
        "scheduler_shift": 3.0,
    }
)

MakeCheckpoint = Callable[..., Path]


def maker(tmp_path: Path) -> MakeCheckpoint:
    """Make a function that writes a Stable Diffusion 3 checkpoint under ``tmp_path``."""

    def make(
        *,
        absent: tuple[str, ...] = (),
        scheduler: dict[str, Any] | None = None,
        defaults: dict[str, Any] | None = None,
        **transformer: Any,
    ) -> Path:
        torch.manual_seed(0)
        models.train_tokenizers(SENTENCES, RECIPE, tmp_path / "tokenizers")
        clip, t5 = models.load_tokenizers(tmp_path / "tokenizers")
        denoiser = SD3Transformer2DModel.from_config(
            {**models.build_transformer(RECIPE, 64).config, "num_layers": 2, **transformer}
        )
        # Untrained adaptive norms and outputs are zero; without this the whole image would be.
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        vae = models.build_vae(RECIPE)
        vae.register_to_config(shift_factor=0.06, scaling_factor=1.5)
        pipeline = models.assemble(
            tmp_path / "tokenizers",
            vae=vae,
            transformer=denoiser,
            text_encoders=models.build_text_encoders(RECIPE, clip, t5),
            shift=RECIPE.scheduler_shift,
        )
        for component in absent:
            setattr(pipeline, component, None)
            pipeline.register_modules(**{component: None, component.replace("text_encoder", "tokenizer"): None})
        pipeline.scheduler.register_to_config(**(scheduler or {}))
        pipeline.save_pretrained(tmp_path / "checkpoint")
        if defaults is not None:
            (tmp_path / "checkpoint" / checkpoint_info.DEFAULTS_FILE).write_text(json.dumps(defaults))
        return tmp_path / "checkpoint"

    return make


def unet_maker(tmp_path: Path) -> Callable[[str], Path]:
    """Make a function that writes a Stable Diffusion 1.5 or XL checkpoint under ``tmp_path``."""

    def make(kind: str) -> Path:
        torch.manual_seed(0)
        models.train_tokenizers(SENTENCES, RECIPE, tmp_path / "tokenizers")
        tokenizer, _ = models.load_tokenizers(tmp_path / "tokenizers")
        sizes: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "projection_dim": 32,
        }
        text = CLIPTextConfig(**sizes, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
        unet: dict[str, Any] = {
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 4,
        }
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
        )
        parts = {
            "vae": vae,
            "tokenizer": tokenizer,
            "text_encoder": CLIPTextModel(text),
            "scheduler": EulerDiscreteScheduler(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
            ),
        }
        if kind == "sd15":
            pipeline: Any = StableDiffusionPipeline(
                unet=UNet2DConditionModel(cross_attention_dim=32, **unet),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                **parts,
            )
        else:
            extra = {
                "cross_attention_dim": 64,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 6 * 8 + 32,
            }
            pipeline = StableDiffusionXLPipeline(
                unet=UNet2DConditionModel(**unet, **extra),
                text_encoder_2=CLIPTextModelWithProjection(text),
                tokenizer_2=tokenizer,
                **parts,
            )
        pipeline.save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return make
