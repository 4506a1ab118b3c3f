"""Scale-out beyond this machine: an arrival trace through replicas that batch by steps, an autoscaler, and the bill.

A discrete-event simulation (simpy). A replica advances all its requests one denoising step at a time, and a step over
``rows`` rows takes ``step_s + row_s * rows``; both, and the seconds that a request spends outside its steps, come from
measurements of the real server (``calibrate``). Knows nothing about Triton.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy


@dataclass(frozen=True)
class Calibration:
    """Seconds of a step with no rows, of each further row, and of a request outside its steps."""

    step_s: float
    row_s: float
    request_s: float

    def step(self, rows: int) -> float:
        """Compute the seconds of one step over ``rows`` rows."""
        return self.step_s + self.row_s * rows


@dataclass(frozen=True)
class Job:
    """A request: when it arrives (seconds), its steps, and its rows in every step (two with guidance)."""

    at_s: float
    steps: int
    rows: int = 2


@dataclass(frozen=True)
class Autoscaler:
    """Scales as KEDA does on requests in flight: every ``poll_s``, replicas = requests / ``target``, within the limits.

    A new replica serves after ``start_s``; one is removed when fewer were wanted for ``cooldown_s``.
    """

    target: float = 16.0
    minimum: int = 1
    maximum: int = 1
    poll_s: float = 30.0
    start_s: float = 180.0
    cooldown_s: float = 900.0


@dataclass
class Outcome:
    """Latency of every job in seconds, in order of arrival; what the replicas cost."""

    latencies_s: list[float] = field(default_factory=list)
    replica_seconds: float = 0.0
    most_replicas: int = 0
    wall_s: float = 0.0

    def percentile(self, percent: float) -> float:
        """Compute a percentile of the latencies."""
        return float(np.percentile(self.latencies_s, percent))

    @property
    def throughput(self) -> float:
        """The finished jobs per second."""
        return len(self.latencies_s) / self.wall_s

    def cost(self, per_replica_hour: float) -> float:
        """Compute the bill."""
        return self.replica_seconds / 3600.0 * per_replica_hour


def calibrate(rows: Sequence[float], step_s: Sequence[float], *, alone_s: float, steps: int) -> Calibration:
    """Fit to loads of different sizes: mean rows per batch, seconds per step, and one request's latency alone."""
    slope, intercept = np.polyfit(np.asarray(rows), np.asarray(step_s), 1)
    row_s, fixed_s = max(float(slope), 0.0), max(float(intercept), 0.0)
    return Calibration(fixed_s, row_s, max(alone_s - steps * (fixed_s + row_s * min(rows)), 0.0))


def simulate(jobs: Sequence[Job], calibration: Calibration, scaler: Autoscaler, *, most_rows: int = 32) -> Outcome:
    """Run the trace to its end. A request goes to the serving replica with the fewest."""
    environment = simpy.Environment()
    fleet = _Fleet(environment, calibration, scaler, most_rows=most_rows)
    latencies: dict[int, float] = {}

    def arrivals() -> Generator[Any, Any, None]:
        for index, job in enumerate(jobs):
            yield environment.timeout(max(0.0, job.at_s - environment.now))
            environment.process(_serve(index, job))

    def _serve(index: int, job: Job) -> Generator[Any, Any, None]:
        began = environment.now
        yield environment.timeout(calibration.request_s)
        yield fleet.submit(job)
        latencies[index] = environment.now - began
        if len(latencies) == len(jobs):
            finished.succeed()

    finished = environment.event()
    environment.process(arrivals())
    environment.process(fleet.scale())
    environment.run(until=finished)
    fleet.stop_all()
    ordered = [latencies[index] for index in range(len(jobs))]
    return Outcome(ordered, fleet.replica_seconds, fleet.most, environment.now)


class _Replica:
    def __init__(
        self, environment: simpy.Environment, calibration: Calibration, *, most_rows: int, start_s: float
    ) -> None:
        self.since = environment.now
        self.serves_at = environment.now + start_s
        self.jobs: list[tuple[int, int, Any]] = []
        self._environment, self._calibration, self._most_rows = environment, calibration, most_rows
        self._work = environment.event()
        environment.process(self._run())

    def add(self, job: Job) -> Any:
        done = self._environment.event()
        self.jobs.append((job.steps, job.rows, done))
        if not self._work.triggered:
            self._work.succeed()
        return done

    def _run(self) -> Generator[Any, Any, None]:
        while True:
            if not self.jobs:
                self._work = self._environment.event()
                yield self._work
            batch, rows = 0, 0
            while batch < len(self.jobs) and (batch == 0 or rows + self.jobs[batch][1] <= self._most_rows):
                rows += self.jobs[batch][1]
                batch += 1
            yield self._environment.timeout(self._calibration.step(rows))
            stepped, self.jobs = self.jobs[:batch], self.jobs[batch:]
            for steps, each, done in stepped:
                if steps > 1:
                    # Behind those already waiting, as in a queue.
                    self.jobs.append((steps - 1, each, done))
                else:
                    done.succeed()


class _Fleet:
    def __init__(
        self, environment: simpy.Environment, calibration: Calibration, scaler: Autoscaler, *, most_rows: int
    ) -> None:
        self._environment, self._calibration = environment, calibration
        self._scaler, self._most_rows = scaler, most_rows
        self._replicas = [self._new(0.0) for _ in range(scaler.minimum)]
        self._enough_since = 0.0
        self.replica_seconds = 0.0
        self.most = scaler.minimum

    def submit(self, job: Job) -> Any:
        serving = [each for each in self._replicas if each.serves_at <= self._environment.now]
        return min(serving, key=lambda each: len(each.jobs)).add(job)

    def scale(self) -> Generator[Any, Any, None]:
        scaler = self._scaler
        while scaler.maximum > scaler.minimum:
            yield self._environment.timeout(scaler.poll_s)
            in_flight = sum(len(each.jobs) for each in self._replicas)
            wanted = min(max(-(-in_flight // int(scaler.target)), scaler.minimum), scaler.maximum)
            if wanted >= len(self._replicas):
                self._enough_since = self._environment.now
                self._replicas += [self._new(scaler.start_s) for _ in range(wanted - len(self._replicas))]
                self.most = max(self.most, len(self._replicas))
            elif self._environment.now - self._enough_since >= scaler.cooldown_s:
                for idle in [each for each in self._replicas if not each.jobs][: len(self._replicas) - wanted]:
                    self._stop(idle)

    def stop_all(self) -> None:
        for replica in list(self._replicas):
            self._stop(replica)

    def _new(self, start_s: float) -> _Replica:
        return _Replica(self._environment, self._calibration, most_rows=self._most_rows, start_s=start_s)

    def _stop(self, replica: _Replica) -> None:
        self._replicas.remove(replica)
        self.replica_seconds += self._environment.now - replica.since
