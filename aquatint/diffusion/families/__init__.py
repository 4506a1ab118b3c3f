"""Model families: what differs between kinds of checkpoints. A module here that defines ``FAMILY`` adds one.

A family only arranges arrays; the pipeline runs the components.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion import plugins
from aquatint.diffusion.prompt import Conditioning, EncoderOutput
from aquatint.diffusion.rows import Tensors
from aquatint.diffusion.served_model import ServedModel


class Family(Protocol):
    """One kind of checkpoint. ``name`` is ``ServedModel.family``."""

    name: str

    def assemble(self, served: ServedModel, outputs: dict[str, EncoderOutput], dropped_tokens: int) -> Conditioning:
        """Join the text encoders' outputs, by component, into the transformer's conditioning."""

    def prepare_latents(self, served: ServedModel, request: ResolvedRequest) -> NDArray[np.float32]:
        """Make the latents that denoising starts from, FP32 ``(images, channels, h, w)``."""

    def image_seq_len(self, served: ServedModel, latents: NDArray[np.float32]) -> int:
        """Count the transformer's patches of one image."""

    def conditioning(self, rows: Sequence[Conditioning]) -> Tensors:
        """Name the inputs of the transformer that stay the same for a whole request, one row for each of ``rows``."""

    def transformer_inputs(self, latents: Any, timesteps: NDArray[np.float32], conditioning: Tensors) -> Tensors:
        """Name the inputs of one evaluation, each with as many rows; latents and conditioning may be a device's."""

    def decoder_input(self, served: ServedModel, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale denoised latents to what the VAE decoder takes."""


@functools.cache
def registry() -> dict[str, Family]:
    """Return every family by name."""
    return {family.name: family for family in plugins.defined_in(__name__, __path__, "FAMILY")}
