"""Recipes of Dreambooth training: YAML files beside this module, checked before anything long begins."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aquatint.contract.errors import InvalidRequest, from_validation
from aquatint_pipelines.sampling import Sampling

NAMES = ("mini", "medium-24gb", "medium-48gb", "medium-80gb")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PriorRecipe(_Strict):
    """Prior preservation (Ruiz et al. 2023, section 3.3): the base model's own images keep it what it was."""

    prompts: list[str] = Field(min_length=1)
    num_class_images: int = Field(default=32, ge=1)
    batch_size: int = Field(default=1, ge=1)
    loss_weight: float = Field(default=1.0, gt=0)


class ValidationRecipe(_Strict):
    """Images generated while training, and when to stop.

    ``patience``: validations without a better subject similarity before training stops; 0 never stops early.
    """

    every_steps: int = Field(default=100, ge=1)
    prompts: list[str] = ["a photo of {token}"]
    patience: int = Field(default=0, ge=0)


class GateRecipe(_Strict):
    """What a tuned model must reach to be published; similarities are cosines, -1 to 1.

    ``min_subject_gain``: how much closer to the instance images than the base model's images of the same prompts.
    ``max_prior_drift``: 1 minus the similarity of its images of unrelated prompts to the base model's.
    """

    subject_prompts: list[str] = ["a photo of {token}"]
    prior_prompts: list[str] = ["a photo of a mountain lake", "a portrait of an old sailor", "a bowl of fruit"]
    seeds: int = Field(default=2, ge=1)
    min_subject_similarity: float = 0.6
    min_subject_gain: float = 0.05
    max_prior_drift: float = 0.35


class DreamboothRecipe(_Strict):
    """How one subject is taught to one checkpoint."""

    name: str
    resolution: int = Field(ge=16)
    method: Literal["lora", "full"] = "lora"
    lora_rank: int = Field(default=16, ge=1)
    train_text_encoders: bool = False
    max_sequence_length: int = Field(default=256, ge=8)
    instance_prompt: str = "a photo of {token}"
    max_train_steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=1, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0)
    lr_scheduler: Literal["constant", "constant_with_warmup", "cosine", "linear"] = "constant_with_warmup"
    lr_warmup_steps: int = Field(default=50, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    logit_mean: float = 0.0
    logit_std: float = Field(default=1.0, gt=0)
    caption_dropout: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    checkpoint_every_steps: int = Field(default=250, ge=1)
    num_inference_steps: int = Field(default=28, ge=1)
    guidance_scale: float = Field(default=4.5, ge=0)
    prior: PriorRecipe | None = None
    validation: ValidationRecipe = ValidationRecipe()
    gate: GateRecipe = GateRecipe()
    seed: int = 0

    @property
    def sampling(self) -> Sampling:
        """How images are generated while training and evaluating."""
        return Sampling(self.num_inference_steps, self.guidance_scale, self.max_sequence_length, self.resolution)


def load(name_or_path: str, **overrides: Any) -> DreamboothRecipe:
    """Load a recipe by name or from a YAML file, with fields replaced. Raises ``InvalidRequest`` if it is wrong."""
    if name_or_path in NAMES:
        text = (resources.files("aquatint_pipelines.dreambooth") / "recipes" / f"{name_or_path}.yaml").read_text()
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text()
    else:
        raise InvalidRequest(f"recipe: must be one of {', '.join(NAMES)} or a YAML file, is {name_or_path!r}")
    try:
        fields = yaml.safe_load(text)
        return DreamboothRecipe.model_validate({**fields, **overrides})
    except ValidationError as error:
        raise InvalidRequest(f"recipe: {from_validation(error)}") from None
    except (yaml.YAMLError, TypeError) as error:
        raise InvalidRequest(f"recipe: {name_or_path} is not a mapping in YAML") from error
