"""Training recipes: one YAML file each, checked when read."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SubjectsRecipe(_Strict):
    """Which part of the dataset the pipeline learns to generate."""

    groups: list[str]
    extra: list[str] = []
    exclude: list[str] = []


class ScenesRecipe(_Strict):
    """What the pipeline learns beyond plain artwork; nothing by default."""

    arrangements: list[Literal["small", "large", "two"]] = []
    # Subjects that never come in twos, and those that one hue fills.
    uncounted: list[str] = []
    recoloured: list[str] = []
    # Share of the training images that are such scenes.
    share: float = 0.5


class ModelRecipe(_Strict):
    """Sizes of the components, in diffusers' own words."""

    vae_block_out_channels: list[int]
    vae_layers_per_block: int
    # Residual branches that start at nothing learn faster: 17.4 dB instead of 16.5 after 150 core-seconds.
    vae_zero_residuals: bool = False
    transformer_layers: int
    attention_head_dim: int
    num_attention_heads: int
    dual_attention_layers: list[int]
    text_hidden_size: int
    text_layers: int
    text_tokens: int
    vocab_size: int
    scheduler_shift: float


class StageRecipe(_Strict):
    """One training stage; ``minutes`` is time spent training, pauses not counted.

    By the ``core`` clock only time on a core counts, so a busy machine trains longer, not less.
    """

    minutes: float
    batch_size: int
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    compile: bool
    clock: Literal["wall", "core"] = "wall"
    # Without one, AdamW trains everything.
    muon_learning_rate: float | None = None
    # How often the EMA weights are measured and looked at; 0 for never.
    evaluate_every_minutes: float = 0.0


class VaeStageRecipe(StageRecipe):
    """Loss weights and images of the VAE stage."""

    kl_weight: float
    gradient_weight: float
    # Side of the random piece each step sees; 0 for the whole image. Many steps are needed, not many pixels.
    crop: int = 0
    # From this share of the budget on, half as many whole images: normalisation must know their plain backgrounds.
    whole_from: float = 1.0
    # Share of steps on four half-size images in one, and on colours swapped among red, green and blue.
    mosaic: float = 0.0
    recolour: float = 0.0
    # One in this many of the subjects that the recipe does not use is kept from training, to measure on; 0 keeps none.
    held_out_one_in: int = 0


class TransformerStageRecipe(StageRecipe):
    """Sampling of timesteps and captions in the transformer stage."""

    caption_dropout: float
    logit_mean: float
    logit_std: float
    long_text_every: int


class Recipe(_Strict):
    """Everything that decides what a training run makes."""

    name: str
    image_size: int
    mixed_precision: str
    seed: int
    # What the card must say about the run that was shipped, beyond the numbers above.
    provenance: str = ""
    # Folder of weights to resume from where a run has no state of its own.
    snapshots: Path | None = None
    subjects: SubjectsRecipe
    scenes: ScenesRecipe = ScenesRecipe()
    model: ModelRecipe
    vae: VaeStageRecipe
    transformer: TransformerStageRecipe
    judge: StageRecipe

    def snapshot(self, stage: str) -> Path | None:
        """Return where the recipe keeps a stage's snapshot, if it keeps any."""
        return self.snapshots / f"{stage}.safetensors" if self.snapshots else None


def load(name_or_path: str) -> Recipe:
    """Read a recipe of this package by name (``cpu``, ``cpu128``, ``gpu``) or any YAML file by path."""
    packaged = resources.files(__package__).joinpath("recipes", f"{name_or_path}.yaml")
    text = packaged.read_text() if packaged.is_file() else Path(name_or_path).read_text()
    return Recipe.model_validate(yaml.safe_load(text))
