"""What drawing gives: the events every engine and client answers with. Nothing here knows how they travel."""

from __future__ import annotations

from dataclasses import dataclass, field

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
