"""Train the autoencoder on every subject at random places and colours: squared error, then L1 + gradient, small KL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from aquatint_pipelines.mini import model as models
from aquatint_pipelines.mini.captions import BACKGROUNDS, STYLES
from aquatint_pipelines.mini.dataset import EmojiDataset
from aquatint_pipelines.mini.recipe import Recipe
from aquatint_pipelines.mini.training import Stage

_MAX_SHIFT = 16


class _Reconstruction(torch.nn.Module):
    """Encode, sample and decode in one graph, so that it compiles and wraps as one module."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pictures).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.kl()


def train(dataset: EmojiDataset, recipe: Recipe, folder: Path) -> AutoencoderKL:
    """Train (or go on training) the VAE and save it to ``folder/vae`` with measured scaling and shift factors."""
    torch.manual_seed(recipe.seed)
    vae = models.build_vae(recipe.model)
    stage = Stage(_Reconstruction(vae), recipe.vae, folder / "vae_training", recipe.mixed_precision)
    forward = torch.compile(stage.model) if recipe.vae.compile else stage.model
    rgba = torch.from_numpy(np.concatenate([dataset.pictures[style] for style in STYLES])).to(stage.device)
    colours = torch.tensor(list(BACKGROUNDS.values()), device=stage.device)
    for _ in stage.steps("vae"):
        pictures = random_pictures(rgba, colours, recipe.vae.batch_size, recipe.image_size)
        reconstructed, kl = forward(pictures)
        loss = reconstruction_loss(reconstructed, pictures, recipe.vae.gradient_weight, _sharpness(stage.done))
        stage.update(loss + recipe.vae.kl_weight * kl.mean() / _latent_size(recipe))
    trained = stage.finish().vae
    _measure_latents(trained, rgba, colours, recipe)
    trained.save_pretrained(folder / "vae")
    print(f"VAE reconstruction: {psnr(trained, rgba, colours, recipe):.2f} dB")
    return trained


def _latent_size(recipe: Recipe) -> int:
    return models.LATENT_CHANNELS * (recipe.image_size // models.VAE_SCALE_FACTOR) ** 2


def random_pictures(rgba: Tensor, colours: Tensor, count: int, size: int) -> Tensor:
    """Random subjects, mirrored and shifted, on random colours; float ``(count, 3, size, size)`` in [-1, 1].

    Half of the backgrounds are the named colours, half any colour at all, so the VAE is not bound to ten of them.
    """
    device = rgba.device
    chosen = rgba[torch.randint(len(rgba), (count,), device=device)]
    shift = torch.randint(-_MAX_SHIFT, _MAX_SHIFT + 1, (2,)).tolist()
    chosen = torch.roll(chosen, shift, dims=(1, 2))
    if torch.rand(()) < 0.5:
        chosen = chosen.flip(2)
    named = colours[torch.randint(len(colours), (count,), device=device)]
    anything = torch.randint(0, 256, (count, 3), device=device)
    background = torch.where(torch.rand(count, 1, device=device) < 0.5, named, anything)
    return compose(chosen, background, size)


def compose(rgba: Tensor, background: Tensor, size: int) -> Tensor:
    """UINT8 ``(n, h, h, 4)`` on ``(n, 3)`` colours -> float ``(n, 3, size, size)`` in [-1, 1], by area averaging."""
    pixels = rgba.permute(0, 3, 1, 2).float() / 255.0
    alpha = pixels[:, 3:]
    picture = pixels[:, :3] * alpha + background[:, :, None, None].float() / 255.0 * (1.0 - alpha)
    return F.avg_pool2d(picture, rgba.shape[1] // size) * 2.0 - 1.0


def _sharpness(done: float) -> float:
    """0 for the first tenth of the budget, 1 after the third tenth.

    L1 and gradients alone leave an untrained small VAE on a plateau of plain colours; squared error gets it off.
    """
    return min(1.0, max(0.0, (done - 0.1) / 0.2))


def reconstruction_loss(reconstructed: Tensor, pictures: Tensor, gradient_weight: float, sharpness: float) -> Tensor:
    """Squared error blended by ``sharpness`` into absolute error of pixels and of their differences."""
    error = reconstructed - pictures
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    sharp = error.abs().mean() + gradient_weight * gradients
    return (1.0 - sharpness) * 2.0 * error.square().mean() + sharpness * sharp


@torch.no_grad()
def _measure_latents(vae: AutoencoderKL, rgba: Tensor, colours: Tensor, recipe: Recipe) -> None:
    """Set ``shift_factor`` and ``scaling_factor`` so that latents have mean 0 and standard deviation 1."""
    pictures = random_pictures(rgba, colours, 512, recipe.image_size)
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in torch.split(pictures, 64)])
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=1.0 / float(latents.std()))


@torch.no_grad()
def psnr(vae: AutoencoderKL, rgba: Tensor, colours: Tensor, recipe: Recipe) -> float:
    """Mean PSNR in dB of 512 random pictures through the autoencoder."""
    torch.manual_seed(1)
    values = []
    for part in torch.split(random_pictures(rgba, colours, 512, recipe.image_size), 64):
        decoded = vae.decode(vae.encode(part).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(-10.0 * torch.log10(((decoded - part) / 2.0).pow(2).mean(dim=(1, 2, 3))))
    return float(torch.cat(values).mean())
