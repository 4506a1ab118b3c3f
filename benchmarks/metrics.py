"""What a load used, from Triton's own metrics page."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import dataclass, fields

_COMPONENTS = re.compile(r"_(text_encoder(_[23])?|transformer|vae_decoder)$")
_COMPUTE = tuple(f"nv_inference_compute_{part}_duration_us" for part in ("input", "infer", "output"))


@dataclass(frozen=True)
class Usage:
    """Counters at one moment; the difference of two is what happened between."""

    wall_s: float
    images: float
    transformer_rows: float
    transformer_batches: float
    component_s: float

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(*(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)))


class Metrics:
    """Reads one server's Prometheus page."""

    def __init__(self, url: str) -> None:
        self._url = url

    def snapshot(self, model: str) -> Usage:
        """The counters of ``model``, its stream front and its components, now."""
        samples = self._samples()
        transformer = f"{model}_transformer"
        components = {name for _, name in samples if _COMPONENTS.fullmatch(name.removeprefix(model))}
        return Usage(
            time.perf_counter(),
            sum(samples.get(("aquatint_images_total", front), 0.0) for front in (model, f"{model}_stream")),
            samples.get(("nv_inference_count", transformer), 0.0),
            samples.get(("nv_inference_exec_count", transformer), 0.0),
            sum(self._busy_s(samples, component) for component in components),
        )

    @staticmethod
    def _busy_s(samples: dict[tuple[str, str], float], component: str) -> float:
        """Seconds one component was running. Triton books a batch's time to each of its requests; this undoes it."""
        booked = sum(value for (name, of), value in samples.items() if name in _COMPUTE and of == component)
        requests = samples.get(("nv_inference_request_success", component), 0.0)
        return booked / 1e6 * samples[("nv_inference_exec_count", component)] / requests if requests else 0.0

    def _samples(self) -> dict[tuple[str, str], float]:
        with urllib.request.urlopen(self._url) as page:
            text = page.read().decode()
        found = re.findall(r'^(\w+)\{model="([^"]+)"[^}]*\} (\S+)$', text, re.MULTILINE)
        return {(name, model): float(value) for name, model, value in found}
