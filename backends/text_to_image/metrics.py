"""The text-to-image models' ``aquatint_*`` metrics. Only importable inside a Triton Python backend process.

Triton 2.51 crashes when several threads update custom metrics, so one thread applies them all.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import triton_python_backend_utils as pb_utils

from aquatint.contract.generation import Generation

_STAGES = ("queue", "encode", "denoise", "decode")


class RequestMetrics:
    """Counters of one text-to-image model, labelled with its model name."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._families: dict[str, pb_utils.MetricFamily] = {}
        self._metrics: dict[tuple[str, ...], pb_utils.Metric] = {}
        self._updates: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._reported_hits = self._reported_misses = 0
        self._thread = threading.Thread(target=self._apply, daemon=True)
        self._thread.start()

    def admitted(self, count: int) -> None:
        """Report how many requests are now running or queued."""
        self._updates.put(lambda: self._set("aquatint_requests_in_flight", "Requests running or queued", count))

    def stepped(self, images: int) -> None:
        """Count one denoising step of a request for ``images`` images."""
        self._updates.put(lambda: self._add("aquatint_steps_total", "Denoising steps of images", images))

    def finished(self, result: Generation, cache_counts: tuple[int, int]) -> None:
        """Count one request answered with images."""
        seconds = {stage: result.timings[f"{stage}_s"] for stage in _STAGES}
        hits, misses = cache_counts

        def update() -> None:
            self._add("aquatint_requests_total", "Requests by outcome", 1, outcome="ok")
            self._add("aquatint_images_total", "Images generated", len(result.images))
            for stage, value in seconds.items():
                self._add("aquatint_stage_seconds_total", "Seconds spent in each stage", value, stage=stage)
            self._add("aquatint_encoding_cache_hits_total", "Prompts found encoded", hits - self._reported_hits)
            self._add("aquatint_encoding_cache_misses_total", "Prompts encoded", misses - self._reported_misses)
            self._reported_hits, self._reported_misses = hits, misses

        self._updates.put(update)

    def failed(self, outcome: str) -> None:
        """Count one request answered with an error; ``outcome`` is the error's class name."""
        self._updates.put(lambda: self._add("aquatint_requests_total", "Requests by outcome", 1, outcome=outcome))

    def close(self) -> None:
        """Apply what is queued and stop."""
        self._updates.put(None)
        self._thread.join()

    def _apply(self) -> None:
        while (update := self._updates.get()) is not None:
            update()

    def _add(self, name: str, description: str, value: float, **labels: str) -> None:
        # Finished requests report shared cache counters, possibly out of order; counters never go down.
        if value > 0:
            self._metric(name, description, kind=pb_utils.MetricFamily.COUNTER, labels=labels).increment(value)

    def _set(self, name: str, description: str, value: float, **labels: str) -> None:
        self._metric(name, description, kind=pb_utils.MetricFamily.GAUGE, labels=labels).set(value)

    def _metric(self, name: str, description: str, *, kind: int, labels: dict[str, str]) -> pb_utils.Metric:
        key = (name, *labels.values())
        if key not in self._metrics:
            if name not in self._families:
                self._families[name] = pb_utils.MetricFamily(name=name, description=description, kind=kind)
            self._metrics[key] = self._families[name].Metric(labels={"model": self._model, **labels})
        return self._metrics[key]
