"""The linear latent-to-RGB map that makes previews: least squares on random pictures through the VAE's encoder."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

_PICTURES = 24
_SIDE = 128
_COARSE_SIDES = (1, 2, 4, 8)


@torch.no_grad()
def fit_preview_factors(vae: AutoencoderKL, scale_factor: int) -> list[list[float]]:
    """``(latent channels + 1, 3)`` so that ``[scaled latents, 1] @ factors`` is RGB in 0..1, the last row the offset.

    The pictures are random colour fields at several scales: they span what a blurred picture can look like.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = torch.cat([_colour_fields(side, generator) for side in _COARSE_SIDES])
    latents = torch.cat([vae.encode(picture[None] * 2.0 - 1.0).latent_dist.mode() for picture in pictures])
    latents = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
    features = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    colours = F.avg_pool2d(pictures, scale_factor).permute(0, 2, 3, 1).reshape(-1, 3)
    factors: list[list[float]] = torch.linalg.lstsq(features.double(), colours.double()).solution.tolist()
    return factors


def _colour_fields(side: int, generator: torch.Generator) -> torch.Tensor:
    coarse = torch.rand(_PICTURES // len(_COARSE_SIDES), 3, side, side, generator=generator)
    return F.interpolate(coarse, (_SIDE, _SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
