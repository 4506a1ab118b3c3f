"""What every server generates with: a client of another server, or a pipeline in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from aquatint.contract.errors import ModelNotFound
from aquatint.contract.generation import Event, Generation
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import GenerationRequest


class ImageGenerator(Protocol):
    """Generates images under the request contract. ``aquatint.client.AsyncClient`` is one."""

    async def models(self) -> list[ModelInfo]:
        """List the available models, the default first. Raises ``AquatintError``."""

    async def is_ready(self, model: str | None = None) -> bool:
        """Return whether the model (by default the default one) can generate now."""

    async def generate(self, request: GenerationRequest, /, *, timeout_s: float | None = None) -> Generation:
        """Generate and wait; cancelling the task stops the generation. Raises ``AquatintError``."""

    def stream(self, request: GenerationRequest, /, *, timeout_s: float | None = None) -> AsyncGenerator[Event, None]:
        """Generate step by step: ``Progress`` events, then the ``Generation``; leaving the iterator stops it."""


async def find_model(generator: ImageGenerator, name: str | None) -> ModelInfo:
    """Find the model of that name, the default one for ``None``. Raises ``ModelNotFound``, naming those that exist."""
    known = await generator.models()
    for info in known:
        if name in (None, info.name):
            return info
    raise ModelNotFound(f"no model {name!r} here; there is: {', '.join(info.name for info in known)}")
