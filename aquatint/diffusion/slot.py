"""One request while it is being denoised: its latents, its conditioning, and where its sampler stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aquatint.contract.errors import InvalidRequest
from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion import families, rows, samplers
from aquatint.diffusion.arrays import HOST, Arrays
from aquatint.diffusion.families import Family
from aquatint.diffusion.guidance import guide
from aquatint.diffusion.rows import Tensors
from aquatint.diffusion.samplers import Sampler
from aquatint.diffusion.samplers.flow_match import FlowMatchConfig
from aquatint.diffusion.served_model import ServedModel, SkipLayerGuidance

# 1 for rows that go without the layers of skip-layer guidance.
SKIP_LAYERS = "skip_layers"


class Slot:
    """A request's state between two evaluations of the transformer.

    Args:
        family: How the transformer's inputs are arranged.
        latents: FP32 ``(images, channels, h, w)`` to start from.
        conditioning: Inputs of the transformer by name, one row per image; with guidance first as many unconditional
            rows as there are images, then the conditional ones.
        sampler: The request's own.
        guidance_scale: Of classifier-free guidance; ``None`` for a request without.
        skip_layers: Skip-layer guidance; ``None`` for models without it.
        num_inference_steps: What the interval of skip-layer guidance counts in.
        preview_every: Evaluations between two previews; 0 for none.
    """

    def __init__(  # noqa: PLR0913 - what a request brings, each by its name
        self,
        *,
        family: Family,
        latents: NDArray[np.float32],
        conditioning: Tensors,
        sampler: Sampler,
        guidance_scale: float | None,
        skip_layers: SkipLayerGuidance | None = None,
        num_inference_steps: int,
        preview_every: int = 0,
    ) -> None:
        self.family = family
        self.latents: Any = latents
        self.evaluated = 0
        # Equal for slots whose rows can share one call: the shapes of all their inputs.
        self.batches_with = (latents.shape[1:], *((name, value.shape[1:]) for name, value in conditioning.items()))
        self._arrays: Arrays = HOST
        self._conditioning = conditioning
        self._sampler = sampler
        self._scale = guidance_scale
        self._skip_layers = skip_layers
        self._steps = num_inference_steps
        self._preview_every = preview_every

    @property
    def evaluations(self) -> int:
        """How often the transformer is evaluated from the beginning to the end."""
        return len(self._sampler.schedule.timesteps)

    @property
    def is_finished(self) -> bool:
        """Whether ``latents`` are final."""
        return self.evaluated == self.evaluations

    @property
    def rows(self) -> int:
        """Rows of the next evaluation."""
        return len(self.latents) * self._kinds

    @property
    def _kinds(self) -> int:
        """Rows per image: one, unconditional and conditional, or once more without some layers."""
        if self._scale is None:
            return 1
        return 3 if self._skips else 2

    @property
    def _skips(self) -> bool:
        if self._scale is None or self._skip_layers is None:
            return False
        return self._skip_layers.applies(self.evaluated, self._steps)

    def move_to(self, arrays: Arrays) -> None:
        """Keep latents and conditioning on a device from now on."""
        self._arrays = arrays
        self.latents = arrays.from_host(self.latents)
        self._conditioning = {name: arrays.from_host(value) for name, value in self._conditioning.items()}

    def conditioning(self) -> Tensors:
        """Arrange the conditioning of the next evaluation's rows; it changes only where ``rows`` does."""
        if not self._skips:
            return self._conditioning
        images = len(self.latents)
        return {name: self._arrays.join([value, value[images:]]) for name, value in self._conditioning.items()}

    def latents_by_kind(self) -> list[Any]:
        """List the latents once for every kind of row: with guidance the same are denoised several times."""
        return [self.latents] * self._kinds

    def timesteps(self) -> NDArray[np.float32]:
        """Return the timestep of every row of the next evaluation."""
        return np.full(self.rows, self._sampler.schedule.timesteps[self.evaluated], np.float32)

    def skip_layers(self) -> NDArray[np.float32] | None:
        """Return 1 for every row that goes without the layers of skip-layer guidance; ``None`` for models without."""
        if self._skip_layers is None:
            return None
        skipped = len(self.latents) if self._skips else 0
        return (np.arange(self.rows) >= self.rows - skipped).astype(np.float32)

    def advance(self, velocity: Any) -> Any:
        """Take the transformer's answer, ``rows`` of it; return the latents to preview if a preview is due."""
        velocity = self._guided(velocity)
        index, sigma = self.evaluated, self._sampler.schedule.sigmas[self.evaluated]
        due = self._preview_every and (index + 1) % self._preview_every == 0
        heading_for = self.latents - sigma * velocity if due else None
        self.latents = self._sampler.step(self.latents, velocity, index)
        self.evaluated += 1
        return heading_for

    def _guided(self, velocity: Any) -> Any:
        if self._scale is None:
            return velocity
        images = len(self.latents)
        unconditional, conditional = velocity[:images], velocity[images : 2 * images]
        guided = guide(unconditional, conditional, self._scale)
        if not self._skips or self._skip_layers is None:
            return guided
        return guided + np.float32(self._skip_layers.scale) * (conditional - velocity[2 * images :])


class SlotFactory:
    """Makes the slots of a served model's requests."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._family = families.registry()[served.family]
        self._schedule = FlowMatchConfig.from_diffusers(served.scheduler)

    def make(self, request: ResolvedRequest, latents: NDArray[np.float32], conditioning: Tensors) -> Slot:
        """Make the slot of a request. Raises ``InvalidRequest`` if the conditioning has other rows than it needs."""
        rows_needed = len(latents) * (2 if request.uses_guidance else 1)
        if any(len(value) != rows_needed for value in conditioning.values()):
            raise InvalidRequest(f"{', '.join(conditioning)}: must have {rows_needed} rows")
        return Slot(
            family=self._family,
            latents=latents,
            conditioning=conditioning,
            sampler=samplers.make(
                request.sampler,
                self._schedule,
                num_inference_steps=request.num_inference_steps,
                image_seq_len=self._family.image_seq_len(self._served, latents),
            ),
            guidance_scale=request.guidance_scale if request.uses_guidance else None,
            skip_layers=self._served.skip_layer_guidance,
            num_inference_steps=request.num_inference_steps,
            preview_every=request.preview_every,
        )


def transformer_inputs(slots: Sequence[Slot], conditioning: Tensors, arrays: Arrays = HOST) -> Tensors:
    """Name the transformer's inputs for the next evaluation of slots that batch together, in their order.

    ``conditioning`` is theirs, joined. Latents and conditioning are arrays of the device, the rest is numpy's.
    """
    latents = arrays.join([part for slot in slots for part in slot.latents_by_kind()])
    timesteps = rows.join([slot.timesteps() for slot in slots])
    inputs = slots[0].family.transformer_inputs(latents, timesteps, conditioning)
    skip_layers = [skipped for slot in slots if (skipped := slot.skip_layers()) is not None]
    return {**inputs, SKIP_LAYERS: rows.join(skip_layers)} if skip_layers else inputs
