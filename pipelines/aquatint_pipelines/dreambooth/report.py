"""One HTML file that a person reads before a tuned model goes live: verdict, numbers, curves, images, parity."""

from __future__ import annotations

import base64
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from aquatint.repository.manifest import Manifest
from aquatint_pipelines.dreambooth import data, evaluation, training


def render(dataset: Path, run: Path, *, evaluated: Path, manifest: Manifest | None) -> str:
    """Render the report as self-contained HTML; ``manifest`` is the export's, once there is one."""
    described, measured = data.read(dataset), evaluation.read(evaluated)
    template = (resources.files("aquatint_pipelines.dreambooth") / "report.html.jinja").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(
        token=described.token,
        dataset=described,
        instance=[_image(dataset / image.file) for image in described.instance],
        evaluation=measured,
        failures=measured.failures(),
        outcome=json.loads((run / training.OUTCOME_FILE).read_text()),
        curve=_png(curve(run)),
        rows=[(each, _image(evaluated / each.before), _image(evaluated / each.after)) for each in measured.comparisons],
        parity=None if manifest is None else manifest.parity,
    )


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read what a training run reported, in order; each has ``step``."""
    path = run / training.METRICS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def curve(run: Path) -> Figure:
    """Plot the loss and gradient norm by step, and the validations' similarity."""
    metrics = read_metrics(run)
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, name, title in zip(
        axes, ("loss", "grad_norm", "similarity"), ("loss", "norm of gradients", "subject similarity")
    ):
        points = [(each["step"], each[name]) for each in metrics if name in each]
        if points:
            axis.plot(*zip(*points), marker="o" if len(points) < 10 else "", linewidth=1)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    return figure


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return _data_url(buffer.getvalue())


def _image(path: Path) -> str:
    return _data_url(path.read_bytes())


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
