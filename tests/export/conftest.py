"""SD3 checkpoints of every shape the export must take, with random weights and a few kilobytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from aquatint_pipelines.mini import model as models
from aquatint_pipelines.mini import recipe as recipes
from diffusers import SD3Transformer2DModel

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


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    def make(*, absent: tuple[str, ...] = (), scheduler: dict[str, Any] | None = None, **transformer: Any) -> Path:
        torch.manual_seed(0)
        models.train_tokenizers(SENTENCES, RECIPE, tmp_path / "tokenizers")
        clip, t5 = models.load_tokenizers(tmp_path / "tokenizers")
        denoiser = SD3Transformer2DModel.from_config(
            {**models.build_transformer(RECIPE, 64).config, "num_layers": 2, **transformer}
        )
        # Untrained adaptive norms and outputs are zero; without this the whole picture would be.
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        vae = models.build_vae(RECIPE)
        vae.register_to_config(shift_factor=0.06, scaling_factor=1.5)
        pipeline = models.assemble(
            tmp_path / "tokenizers",
            vae,
            denoiser,
            models.build_text_encoders(RECIPE, clip, t5),
            RECIPE.scheduler_shift,
        )
        for component in absent:
            setattr(pipeline, component, None)
            pipeline.register_modules(**{component: None, component.replace("text_encoder", "tokenizer"): None})
        pipeline.scheduler.register_to_config(**(scheduler or {}))
        pipeline.save_pretrained(tmp_path / "checkpoint")
        return tmp_path / "checkpoint"

    return make
