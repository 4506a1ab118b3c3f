"""The simulator against what can be worked out by hand."""

from __future__ import annotations

import pytest
from aquatint_benchmarks.simulator import Autoscaler, Calibration, Job, calibrate, simulate

ALONE = Autoscaler()
# A step takes 10 ms and 5 ms for each row; a request 100 ms outside its steps.
COSTS = Calibration(step_s=0.01, row_s=0.005, request_s=0.1)


def test_one_request_takes_its_steps() -> None:
    outcome = simulate([Job(at_s=1.0, steps=10)], COSTS, ALONE)
    assert outcome.latencies_s == [pytest.approx(0.1 + 10 * 0.02)]
    assert outcome.wall_s == pytest.approx(1.3)
    assert outcome.cost(per_replica_hour=3600.0) == pytest.approx(1.3)


def test_requests_share_their_steps() -> None:
    outcome = simulate([Job(0.0, 10), Job(0.0, 10)], COSTS, ALONE)
    assert outcome.latencies_s == [pytest.approx(0.1 + 10 * 0.03)] * 2


def test_a_full_batch_makes_others_wait() -> None:
    outcome = simulate([Job(0.0, 10), Job(0.0, 10)], COSTS, ALONE, most_rows=2)
    # In turns: the last step of one is the last but one of the other.
    assert outcome.latencies_s == [pytest.approx(0.1 + 19 * 0.02), pytest.approx(0.1 + 20 * 0.02)]


def test_a_short_request_overtakes_a_long_one() -> None:
    long, short = simulate([Job(0.0, 100), Job(0.5, 5)], COSTS, ALONE).latencies_s
    assert short == pytest.approx(0.1 + 5 * 0.03, abs=0.02)
    assert long == pytest.approx(0.1 + 95 * 0.02 + 5 * 0.03, abs=0.02)


def test_replicas_share_the_requests() -> None:
    pair = [Job(0.0, 10), Job(0.0, 10)]
    outcome = simulate(pair, COSTS, Autoscaler(minimum=2, maximum=2))
    assert outcome.latencies_s == [pytest.approx(0.1 + 10 * 0.02)] * 2
    assert outcome.replica_seconds == pytest.approx(2 * outcome.wall_s)


def test_the_autoscaler_adds_replicas_and_gives_them_up() -> None:
    costs = Calibration(step_s=0.0, row_s=0.02, request_s=0.0)
    burst = [Job(0.1 * index, 28) for index in range(600)]
    quiet = [Job(3000.0 + 60.0 * index, 28) for index in range(20)]
    scaler = Autoscaler(target=4.0, maximum=3, poll_s=10.0, start_s=30.0, cooldown_s=300.0)
    scaled = simulate([*burst, *quiet], costs, scaler)
    fixed = simulate([*burst, *quiet], costs, Autoscaler())
    most = simulate([*burst, *quiet], costs, Autoscaler(minimum=3, maximum=3))
    assert scaled.most_replicas == 3
    assert scaled.percentile(50) < fixed.percentile(50)
    assert scaled.replica_seconds < most.replica_seconds
    assert len(scaled.latencies_s) == 620


def test_calibration_finds_the_costs() -> None:
    rows = [2.0, 4.0, 8.0]
    found = calibrate(rows, [COSTS.step(int(each)) for each in rows], alone_s=0.1 + 28 * COSTS.step(2), steps=28)
    assert found.step_s == pytest.approx(0.01)
    assert found.row_s == pytest.approx(0.005)
    assert found.request_s == pytest.approx(0.1)
