"""What a load used, from the server's own metrics page."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import dataclass

COMPONENTS = ("denoiser", "vae_decoder", "text_encoder_3", "text_encoder_2", "text_encoder")


@dataclass(frozen=True)
class Usage:
    """Counters at one moment, or what happened between two.

    ``busy_s`` is by component, in seconds; in ``active_s`` the denoiser had requests in flight.
    """

    wall_s: float
    images: float
    denoiser_rows: float
    denoiser_batches: float
    active_s: float
    busy_s: dict[str, float]

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(
            self.wall_s - earlier.wall_s,
            self.images - earlier.images,
            self.denoiser_rows - earlier.denoiser_rows,
            self.denoiser_batches - earlier.denoiser_batches,
            self.active_s - earlier.active_s,
            {name: seconds - earlier.busy_s[name] for name, seconds in self.busy_s.items()},
        )


def snapshot(url: str) -> Usage:
    """Read the counters on the server's Prometheus page, over all models, now."""
    with urllib.request.urlopen(url) as page:
        text = page.read().decode()
    samples = re.findall(r'^(\w+)\{model="([^"]+)"[^}]*\} (\S+)$', text, re.MULTILINE)

    def total(name: str, component: str | None = None) -> float:
        return sum(
            float(value)
            for sample, model, value in samples
            if sample == name and (component is None or _component(model) == component)
        )

    return Usage(
        time.perf_counter(),
        total("aquatint_images_total"),
        total("aquatint_engine_rows_total", "denoiser"),
        total("aquatint_engine_batches_total", "denoiser"),
        total("aquatint_denoiser_active_seconds_total"),
        {name: total("aquatint_engine_busy_seconds_total", name) for name in COMPONENTS},
    )


def _component(model: str) -> str | None:
    return next((name for name in COMPONENTS if model.endswith(f"_{name}")), None)
