"""What every entrance draws with: a client of a server, or a pipeline in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from aquatint.errors import ModelNotFound
from aquatint.generation import Generation, StreamEvent
from aquatint.request import GenerationRequest
from aquatint.served_model import ModelInfo


class Engine(Protocol):
    """Draws under the request contract. ``aquatint.client.AsyncClient`` is one."""

    async def models(self) -> list[ModelInfo]:
        """The models that can be asked for, the default first. Raises ``AquatintError``."""

    async def is_ready(self, model: str | None = None) -> bool:
        """Whether the model, by default the default one, can draw now."""

    async def generate(self, request: GenerationRequest, timeout_s: float | None = None) -> Generation:
        """Draw and wait; cancelling the task stops the drawing. Raises ``AquatintError``."""

    def stream(self, request: GenerationRequest, timeout_s: float | None = None) -> AsyncGenerator[StreamEvent, None]:
        """Draw step by step: ``Step`` events, then the ``Generation``; leaving the iterator stops the drawing."""


async def find_model(engine: Engine, name: str | None) -> ModelInfo:
    """The model of that name, the default one for ``None``. Raises ``ModelNotFound`` naming those there are."""
    known = await engine.models()
    for info in known:
        if name in (None, info.name):
            return info
    raise ModelNotFound(f"no model {name!r} here; there is: {', '.join(info.name for info in known)}")
