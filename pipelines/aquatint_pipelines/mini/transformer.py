"""Train the transformer and the three text encoders together by flow matching on the VAE's latents."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from aquatint_pipelines import generating
from aquatint_pipelines.mini import captions, scenes, vae
from aquatint_pipelines.mini import model as models
from aquatint_pipelines.mini.dataset import EmojiDataset
from aquatint_pipelines.mini.recipe import Recipe
from aquatint_pipelines.mini.training import Stage
from aquatint_pipelines.sampling import Sampling

# What StableDiffusion3Pipeline pads T5 to unless it is told otherwise.
_PIPELINE_T5_TOKENS = 256
_NUM_TRAIN_TIMESTEPS = 1000
# For watching a run.
_EXAMINED = 64
_SAMPLING = Sampling(num_inference_steps=16, guidance_scale=4.5)
_SAMPLE_PROMPTS = (
    "a flat emoji of a fox on a blue background",
    "a noto emoji of a strawberry on a yellow background",
    "a flat emoji of a rocket on a black background",
    "a noto emoji of a panda on a green background",
    "a red car",
    "a noto emoji of a blue umbrella on a pink background",
    "a flat emoji of two penguins on an orange background",
    "a small cat on a purple background",
)


class Denoiser(torch.nn.Module):
    """The transformer with its text encoders, so that one optimizer and one EMA hold them all."""

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        text_encoder: CLIPTextModelWithProjection,
        text_encoder_2: CLIPTextModelWithProjection,
        text_encoder_3: T5EncoderModel,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2
        self.text_encoder_3 = text_encoder_3

    def encode(self, clip_ids: Tensor, t5_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encode token ids to ``(n, clip + t5 tokens, joint dim)`` and pooled ``(n, pooled dim)``, as SD3 does."""
        first = self.text_encoder(clip_ids, output_hidden_states=True)
        second = self.text_encoder_2(clip_ids, output_hidden_states=True)
        clip = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        t5 = self.text_encoder_3(t5_ids)[0]
        clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, t5], dim=1), torch.cat([first.text_embeds, second.text_embeds], dim=-1)

    def forward(self, latents: Tensor, timestep: Tensor, clip_ids: Tensor, t5_ids: Tensor) -> Tensor:
        """Predict the velocity ``noise - latents`` of noisy ``(n, 16, h, w)`` latents at ``timestep`` (0 to 1000)."""
        prompt_embeds, pooled = self.encode(clip_ids, t5_ids)
        velocity: Tensor = self.transformer(
            hidden_states=latents,
            encoder_hidden_states=prompt_embeds,
            pooled_projections=pooled,
            timestep=timestep,
            return_dict=False,
        )[0]
        return velocity


@dataclass
class _Captioned:
    """Latents of every training combination on the training device, and how to word them."""

    combinations: list[captions.Combination]
    aliases: dict[str, list[str]]
    latents: Tensor
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]
    recipe: Recipe
    rng: random.Random

    def batch(self, size: int, t5_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Choose random combinations; return their latents, CLIP ids and T5 ids."""
        chosen = [self._choose() for _ in range(size)]
        texts = [self._caption(self.combinations[index]) for index in chosen]
        clip, t5 = self.tokenizers
        device = self.latents.device
        return (
            self.latents[chosen].float(),
            tokenize(clip, texts, clip.model_max_length).to(device),
            tokenize(t5, texts, t5_tokens).to(device),
        )

    @cached_property
    def _plain(self) -> int:
        """How many of the combinations, at the beginning, show plain artwork."""
        return sum(combination.plain for combination in self.combinations)

    def _choose(self) -> int:
        scenes_follow = self._plain < len(self.combinations)
        if scenes_follow and self.rng.random() < self.recipe.scenes.share:
            return self.rng.randrange(self._plain, len(self.combinations))
        return self.rng.randrange(self._plain)

    def _caption(self, combination: captions.Combination) -> str:
        if self.rng.random() < self.recipe.transformer.caption_dropout:
            return ""
        return captions.random_caption(combination, self.aliases[combination.subject], self.rng)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int) -> Tensor:
    """Tokenize to ids ``(n, length)``, padded and truncated."""
    encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


def train(dataset: EmojiDataset, recipe: Recipe, folder: Path) -> StableDiffusion3Pipeline:
    """Train (or resume training) on the recipe's subjects with the VAE of ``folder/vae``; save ``folder/pipeline``."""
    torch.manual_seed(recipe.seed)
    subjects = dataset.select(recipe.subjects)
    models.train_tokenizers(
        captions.corpus(dataset.aliases, scenes=bool(recipe.scenes.arrangements)), recipe.model, folder / "tokenizers"
    )
    clip_tokenizer, t5_tokenizer = models.load_tokenizers(folder / "tokenizers")
    encoders = models.build_text_encoders(recipe.model, clip_tokenizer, t5_tokenizer)
    denoiser = Denoiser(models.build_transformer(recipe.model, recipe.image_size), *encoders)
    stage = Stage(
        denoiser,
        recipe.transformer,
        folder / "transformer_training",
        mixed_precision=recipe.mixed_precision,
        snapshot=recipe.snapshot("transformer"),
    )
    torch.manual_seed(recipe.seed + stage.progress.step)
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae").to(stage.device)
    combinations = scenes.combinations(subjects, recipe.scenes, held_out=False)
    data = _Captioned(
        combinations,
        subjects.aliases,
        _cached_latents(autoencoder, subjects, combinations, folder=folder, size=recipe.image_size).to(stage.device),
        (clip_tokenizer, t5_tokenizer),
        recipe,
        random.Random(recipe.seed + stage.progress.step),
    )
    forward = torch.compile(stage.model) if recipe.transformer.compile else stage.model
    held_out = _HeldOut.of(subjects, autoencoder, recipe, tokenizers=(clip_tokenizer, t5_tokenizer))
    for step in stage.steps("transformer"):
        long = step % recipe.transformer.long_text_every == recipe.transformer.long_text_every - 1
        t5_tokens = _PIPELINE_T5_TOKENS if long else recipe.model.text_tokens
        latents, clip_ids, t5_ids = data.batch(recipe.transformer.batch_size, t5_tokens)
        sigmas = _sample_sigmas(len(latents), recipe).to(stage.device)
        noise = torch.randn_like(latents)
        noisy = torch.lerp(latents, noise, sigmas[:, None, None, None])
        velocity = forward(noisy, sigmas * _NUM_TRAIN_TIMESTEPS, clip_ids, t5_ids)
        stage.update(F.mse_loss(velocity.float(), noise - latents))
        if stage.examination_due():
            _examine(stage, held_out, autoencoder, recipe, folder=folder)
    pipeline = _assemble(stage.finish(), autoencoder, recipe, folder=folder)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline


def _assemble(
    trained: Denoiser, autoencoder: AutoencoderKL, recipe: Recipe, *, folder: Path
) -> StableDiffusion3Pipeline:
    return models.assemble(
        folder / "tokenizers",
        vae=autoencoder,
        transformer=trained.transformer,
        text_encoders=(trained.text_encoder, trained.text_encoder_2, trained.text_encoder_3),
        shift=recipe.model.scheduler_shift,
    )


@dataclass
class _HeldOut:
    """A fixed batch of combinations never trained on, with fixed noise: its loss can be compared over a run."""

    latents: Tensor
    noise: Tensor
    sigmas: Tensor
    clip_ids: Tensor
    t5_ids: Tensor

    @classmethod
    def of(
        cls,
        dataset: EmojiDataset,
        autoencoder: AutoencoderKL,
        recipe: Recipe,
        *,
        tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    ) -> _HeldOut:
        """Take every second of the first held-out combinations, each with the next noise level."""
        combinations = scenes.combinations(dataset, recipe.scenes, held_out=True)[: 2 * _EXAMINED : 2]
        texts = [captions.default_caption(c, dataset.aliases[c.subject]) for c in combinations]
        latents = encode_images(autoencoder, dataset, combinations, size=recipe.image_size)
        generator = torch.Generator().manual_seed(recipe.seed)
        return cls(
            latents,
            torch.randn(latents.shape, generator=generator).to(latents.device),
            (torch.arange(len(latents), device=latents.device) + 0.5) / len(latents),
            tokenize(tokenizers[0], texts, tokenizers[0].model_max_length).to(latents.device),
            tokenize(tokenizers[1], texts, recipe.model.text_tokens).to(latents.device),
        )

    @torch.no_grad()
    def loss(self, denoiser: Denoiser) -> float:
        """Compute the mean squared error of the velocity."""
        noisy = torch.lerp(self.latents, self.noise, self.sigmas[:, None, None, None])
        velocity = denoiser(noisy, self.sigmas * _NUM_TRAIN_TIMESTEPS, self.clip_ids, self.t5_ids)
        return float(F.mse_loss(velocity.float(), self.noise - self.latents))


def _examine(
    stage: Stage[Denoiser], held_out: _HeldOut, autoencoder: AutoencoderKL, recipe: Recipe, *, folder: Path
) -> None:
    """Log the held-out loss of the EMA weights, and write samples to look at."""
    with stage.averaged() as denoiser:
        stage.log(held_out_loss=held_out.loss(denoiser))
        pipeline = _assemble(denoiser, autoencoder, recipe, folder=folder)
        pipeline.set_progress_bar_config(disable=True)
        seeds = list(range(len(_SAMPLE_PROMPTS)))
        images = generating.generate(pipeline, list(_SAMPLE_PROMPTS), seeds=seeds, sampling=_SAMPLING)
    generating.sheet(images).save(stage.folder / "samples.png")


def _sample_sigmas(count: int, recipe: Recipe) -> Tensor:
    """Sample logit-normal noise levels (Esser et al. 2024, section 3.1), moved by the scheduler's shift."""
    stage = recipe.transformer
    sigmas = torch.sigmoid(stage.logit_mean + stage.logit_std * torch.randn(count))
    shift = recipe.model.scheduler_shift
    return shift * sigmas / (1.0 + (shift - 1.0) * sigmas)


def _cached_latents(
    autoencoder: AutoencoderKL,
    dataset: EmojiDataset,
    combinations: Sequence[captions.Combination],
    *,
    folder: Path,
    size: int,
) -> Tensor:
    """Return ``encode_images``, kept in FP16 in ``folder/latents`` under the hash of all that decides them."""
    digest = hashlib.sha256("\n".join(c.key for c in combinations).encode())
    factors = (autoencoder.config.shift_factor, autoencoder.config.scaling_factor)
    digest.update(f"{dataset.content_hash} {size} {factors}".encode())
    for weight in autoencoder.state_dict().values():
        digest.update(weight.float().cpu().numpy().tobytes())
    path = folder / "latents" / f"{digest.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(
            {"latents": encode_images(autoencoder, dataset, combinations, size=size).half().contiguous()}, partial
        )
        partial.replace(path)
    return load_file(path)["latents"]


@torch.no_grad()
def encode_images(
    autoencoder: AutoencoderKL, dataset: EmojiDataset, combinations: Sequence[captions.Combination], *, size: int
) -> Tensor:
    """Compute the scaled latents ``(n, 16, size / 8, size / 8)`` of the combinations, in order."""
    device = autoencoder.device
    parts = []
    for start in range(0, len(combinations), 16):
        images = scenes.images(dataset, combinations[start : start + 16], size)
        parts.append(autoencoder.encode(vae.as_tensor(images).to(device)).latent_dist.mode())
    config = autoencoder.config
    latents: Tensor = (torch.cat(parts) - config.shift_factor) * config.scaling_factor
    return latents
