"""What a measured run writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aquatint_benchmarks import report
from aquatint_benchmarks.bench import PEER, Result, Row, Validation
from aquatint_benchmarks.loads import poisson
from aquatint_benchmarks.simulator import Calibration
from PIL import Image

from aquatint.contract.request import GenerationRequest

BUSY = {"transformer": 0.7, "vae_decoder": 0.1}
VALUES = {"images_per_s": 2.0, "p50_s": 0.5, "p99_s": 0.9}
RESULT = Result(
    machine="a machine",
    model="mini",
    rows=[
        Row(PEER, "closed loop", 4, 2.0, 2.0, 2.1, 2.2),
        Row("onnx", "closed loop", 4, 5.0, 0.8, 0.9, 1.0, 7.9, BUSY),
        Row("onnx", "closed loop, streamed", 4, 4.0, 1.0, 1.1, 1.2, 7.5, BUSY),
        Row("onnx", "Poisson at 50% of its most", None, 2.5, 0.4, 0.5, 0.6, 3.0, BUSY),
    ],
    calibration=Calibration(0.01, 0.005, 0.1),
    validations=[Validation(1, 2.0, VALUES, VALUES)],
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    report.write(RESULT, tmp_path)
    return tmp_path


def test_files(written: Path) -> None:
    assert json.loads((written / "bench.json").read_text())["rows"][1]["busy"] == BUSY
    for name in ("throughput-latency", "rows-per-batch", "where-time-goes"):
        with Image.open(written / f"{name}.png") as plot:
            assert plot.width > 500


def test_ratios_are_to_the_peer_at_as_many_clients(written: Path) -> None:
    lines = (written / "bench.md").read_text().splitlines()
    assert "| onnx | closed loop | 4 | 5.00 | 2.50x | 0.800 | 0.40x | 1.000 | 7.9 |" in lines
    # Random arrivals have no number of clients, so there is nothing to compare with.
    assert "| onnx | Poisson at 50% of its most |  | 2.50 |  | 0.400 |  | 0.600 | 3.0 |" in lines


def test_more_replicas_are_faster_and_dearer() -> None:
    fixed = list(report.scale_out(RESULT.calibration))[:4]
    p99 = [float(cells[2]) for cells in fixed]
    hours = [float(cells[4]) for cells in fixed]
    assert p99 == sorted(p99, reverse=True)
    assert hours == sorted(hours)


def test_poisson_arrivals() -> None:
    requests = [GenerationRequest(prompt="a fox", num_inference_steps=28, seed=seed) for seed in range(2000)]
    arrivals = poisson(requests, rate=10.0, leaving=0.3)
    assert arrivals[-1].at_s == pytest.approx(200.0, rel=0.1)
    leaving = [arrival.leaves_after for arrival in arrivals if arrival.leaves_after is not None]
    assert len(leaving) / len(arrivals) == pytest.approx(0.3, abs=0.04)
    assert set(leaving) == {14}
    assert arrivals == poisson(requests, rate=10.0, leaving=0.3)
