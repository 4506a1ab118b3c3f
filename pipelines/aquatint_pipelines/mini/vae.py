"""Train the autoencoder on every subject at random places and colours: squared error, then L1 + gradient, small KL."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
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

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(images).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.kl()


def train(dataset: EmojiDataset, recipe: Recipe, folder: Path) -> AutoencoderKL:
    """Train (or resume training) the VAE and save it to ``folder/vae`` with measured scaling and shift factors."""
    torch.manual_seed(recipe.seed)
    vae = models.build_vae(recipe.model)
    stage = Stage(
        _Reconstruction(vae),
        recipe.vae,
        folder / "vae_training",
        mixed_precision=recipe.mixed_precision,
        snapshot=recipe.snapshot("vae"),
    )
    # Resumed runs must not see the first run's images again.
    torch.manual_seed(recipe.seed + stage.progress.step)
    forward = torch.compile(stage.model) if recipe.vae.compile else stage.model
    art = Art.split(dataset, recipe, stage.device)
    for _ in stage.steps("vae"):
        images = training_images(art, recipe, whole=stage.done >= recipe.vae.whole_from)
        reconstructed, kl = forward(images)
        loss = reconstruction_loss(
            reconstructed, images, gradient_weight=recipe.vae.gradient_weight, sharpness=_sharpness(stage.done)
        )
        stage.update(loss + recipe.vae.kl_weight * kl.mean() / _latent_size(images))
        if stage.examination_due():
            _examine(stage, art, recipe)
    figures = _examine(stage, art, recipe)
    stage.save()
    trained = stage.finish().vae
    _measure_latents(trained, art, recipe)
    trained.save_pretrained(folder / "vae")
    print("VAE reconstruction: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    return trained


@dataclass(frozen=True)
class Art:
    """Images to train on and images kept for measuring, UINT8 ``(n, 128, 128, 4)``, and the named colours."""

    training: Tensor
    held_out: Tensor
    colours: Tensor

    @classmethod
    def split(cls, dataset: EmojiDataset, recipe: Recipe, device: torch.device) -> Art:
        """Keep one in ``held_out_one_in`` of the subjects the recipe does not use, in both styles, by their hash."""
        used = set(dataset.select(recipe.subjects).subjects) if recipe.vae.held_out_one_in else set()
        kept = [
            subject not in used and _is_held_out(subject, recipe.vae.held_out_one_in) for subject in dataset.subjects
        ]
        rgba = torch.from_numpy(np.concatenate([dataset.images[style] for style in STYLES])).to(device)
        mask = torch.tensor(kept * len(STYLES), device=device)
        return cls(rgba[~mask], rgba[mask], torch.tensor(list(BACKGROUNDS.values()), device=device))


def _is_held_out(subject: str, one_in: int) -> bool:
    return one_in > 0 and int(hashlib.sha256(f"art|{subject}".encode()).hexdigest(), 16) % one_in == 0


def _examine(stage: Stage[_Reconstruction], art: Art, recipe: Recipe) -> dict[str, float]:
    """Measure the PSNR in dB of training and any held-out art, and how true the background is.

    The figures go into the log, with a sheet to look at beside it.
    """
    images = {"training": _examples(art.training, art.colours, recipe.image_size)}
    if len(art.held_out):
        images["held_out"] = _examples(art.held_out, art.colours, recipe.image_size)
    with stage.averaged() as model, torch.no_grad():
        decoded = {name: reconstruct(model.vae, originals) for name, originals in images.items()}
    figures = {f"{name}_psnr": psnr(decoded[name], images[name]) for name in images}
    last = list(images)[-1]
    figures["background_error"] = background_error(decoded[last], images[last])
    stage.log(**figures)
    _sheet(images[last], decoded[last]).save(stage.folder / "reconstructions.png")
    return figures


def _examples(rgba: Tensor, colours: Tensor, size: int) -> Tensor:
    """Compose at most 192 images, evenly chosen and always the same, each on the next named colour."""
    chosen = rgba[:: -(-len(rgba) // 192)]
    return compose(chosen, colours[torch.arange(len(chosen), device=rgba.device) % len(colours)], size)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Pass images in [-1, 1] through the autoencoder, without the posterior's noise."""
    parts = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in torch.split(images, 16)]
    return torch.cat(parts).clamp(-1.0, 1.0)


def psnr(decoded: Tensor, images: Tensor) -> float:
    """Average the PSNR in dB over images."""
    errors = ((decoded - images) / 2.0).square().mean(dim=(1, 2, 3))
    return float((-10.0 * torch.log10(errors)).mean())


def background_error(decoded: Tensor, images: Tensor) -> float:
    """Compute the mean absolute error of the corners, which the art leaves plain, in steps of 255."""
    return 127.5 * float((decoded - images)[..., :6, :6].abs().mean())


def _sheet(images: Tensor, decoded: Tensor, *, columns: int = 6, rows: int = 8) -> Image.Image:
    """Show originals and reconstructions side by side."""
    step = max(1, len(images) // (columns * rows))
    pairs = torch.cat([images, decoded], dim=-1)[::step][: columns * rows]
    pixels = ((pairs + 1.0) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    lines = [np.concatenate(list(pixels[i : i + columns]), axis=1) for i in range(0, len(pixels), columns)]
    whole = [line for line in lines if line.shape == lines[0].shape]
    return Image.fromarray(np.concatenate(whole, axis=0))


def _latent_size(images: Tensor) -> int:
    return models.LATENT_CHANNELS * (images.shape[-1] // models.VAE_SCALE_FACTOR) ** 2


def training_images(art: Art, recipe: Recipe, *, whole: bool = False) -> Tensor:
    """Make one step's images: random art, now and then as a mosaic or in other colours, cropped as the recipe says.

    ``whole`` asks for half as many, not cropped.
    """
    stage = recipe.vae
    count = stage.batch_size // 2 if whole else stage.batch_size
    if torch.rand(()) < stage.mosaic:
        images = _mosaic(art, count, recipe.image_size)
    else:
        images = random_images(art.training, art.colours, count=count, size=recipe.image_size)
    if torch.rand(()) < stage.recolour:
        images = images[:, torch.randperm(3, device=images.device)]
    return _crop(images, stage.crop) if stage.crop and not whole else images


def _mosaic(art: Art, count: int, size: int) -> Tensor:
    """Compose four half-size images in one: small things have finer edges."""
    quarters = random_images(art.training, art.colours, count=4 * count, size=size // 2).chunk(4)
    return torch.cat([torch.cat(quarters[:2], dim=-1), torch.cat(quarters[2:], dim=-1)], dim=-2)


def _crop(images: Tensor, side: int) -> Tensor:
    """Cut the same random square piece out of every image."""
    top, left = torch.randint(0, images.shape[-1] - side + 1, (2,)).tolist()
    return images[:, :, top : top + side, left : left + side]


def random_images(rgba: Tensor, colours: Tensor, *, count: int, size: int) -> Tensor:
    """Put random subjects, mirrored and shifted, on random colours; float ``(count, 3, size, size)`` in [-1, 1].

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
    """Put UINT8 ``(n, h, h, 4)`` on ``(n, 3)`` colours: float ``(n, 3, size, size)`` in [-1, 1], by area averaging."""
    pixels = rgba.permute(0, 3, 1, 2).float() / 255.0
    alpha = pixels[:, 3:]
    image = pixels[:, :3] * alpha + background[:, :, None, None].float() / 255.0 * (1.0 - alpha)
    return F.avg_pool2d(image, rgba.shape[1] // size) * 2.0 - 1.0


def as_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Convert UINT8 ``(n, h, w, 3)`` to float ``(n, 3, h, w)`` in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0


def _sharpness(done: float) -> float:
    """Return 0 for the first tenth of the budget, 1 after the third tenth.

    L1 and gradients alone leave an untrained small VAE on a plateau of plain colours; squared error gets it off.
    """
    return min(1.0, max(0.0, (done - 0.1) / 0.2))


def reconstruction_loss(reconstructed: Tensor, images: Tensor, *, gradient_weight: float, sharpness: float) -> Tensor:
    """Blend squared error by ``sharpness`` into absolute error of pixels and of their differences."""
    error = reconstructed - images
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    sharp = error.abs().mean() + gradient_weight * gradients
    return (1.0 - sharpness) * 2.0 * error.square().mean() + sharpness * sharp


@torch.no_grad()
def _measure_latents(vae: AutoencoderKL, art: Art, recipe: Recipe) -> None:
    """Set ``shift_factor`` and ``scaling_factor`` so that latents have mean 0 and standard deviation 1."""
    # A resumed run must find the same factors, or cached latents would no longer fit them.
    torch.manual_seed(recipe.seed)
    images = random_images(art.training, art.colours, count=512, size=recipe.image_size)
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in torch.split(images, 16)])
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=1.0 / float(latents.std()))
