"""What drawing gives: the events every engine and client answers with. Nothing here knows how they travel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aquatint.request import ResolvedRequest


@dataclass(frozen=True)
class GeneratedImage:
    """One finished picture: a PNG file that carries its parameters, and its seed."""

    png: bytes
    seed: int


@dataclass(frozen=True)
class Generation:
    """A finished request. ``timings`` are seconds per stage on the server."""

    images: list[GeneratedImage]
    parameters: ResolvedRequest
    dropped_tokens: int = 0
    timings: dict[str, float] = field(default_factory=dict)
    batch: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """After a denoising step; ``previews`` are small PNG files, one per image, when asked for."""

    step: int
    total_steps: int
    previews: list[bytes] = field(default_factory=list)


StreamEvent = Step | Generation


def progress_info(step: int, total_steps: int) -> dict[str, Any]:
    """The ``info`` of a progress answer, as every server of ours sends it."""
    return {"type": "progress", "step": step, "total_steps": total_steps}


def completed_info(
    parameters: ResolvedRequest, dropped_tokens: int, timings: dict[str, float], batch: dict[str, float]
) -> dict[str, Any]:
    """The ``info`` of a finished answer, as every server of ours sends it."""
    return {
        "type": "completed",
        "parameters": parameters.model_dump(),
        "seeds": parameters.seeds,
        "dropped_tokens": dropped_tokens,
        "timings": timings,
        "batch": batch,
    }
