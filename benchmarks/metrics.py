"""What a load used, from the server's own metrics page."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Usage:
    """Counters at one moment; the difference of two is what happened between. ``busy_s`` is all components'."""

    wall_s: float
    images: float
    transformer_rows: float
    transformer_batches: float
    busy_s: float

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(*(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)))


class Metrics:
    """Reads one server's Prometheus page."""

    def __init__(self, url: str) -> None:
        self._url = url

    def snapshot(self, model: str) -> Usage:
        """The counters of ``model``, its stream front and its components, now."""
        samples = self._samples()

        def total(name: str, *models: str) -> float:
            return sum(samples.get((name, of), 0.0) for of in models)

        components = [of for name, of in samples if name == "aquatint_engine_batches_total"]
        return Usage(
            time.perf_counter(),
            total("aquatint_images_total", model, f"{model}_stream"),
            total("aquatint_engine_rows_total", f"{model}_transformer"),
            total("aquatint_engine_batches_total", f"{model}_transformer"),
            total("aquatint_engine_busy_seconds_total", *components),
        )

    def _samples(self) -> dict[tuple[str, str], float]:
        with urllib.request.urlopen(self._url) as page:
            text = page.read().decode()
        found = re.findall(r'^(\w+)\{model="([^"]+)"[^}]*\} (\S+)$', text, re.MULTILINE)
        return {(name, model): float(value) for name, model, value in found}
