"""What ``aquatint bench`` leaves behind: ``bench.json``, ``bench.md`` and the plots."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from aquatint_benchmarks.bench import PEER, Result, Row
from aquatint_benchmarks.simulator import Autoscaler, Calibration, Job, simulate
from matplotlib.figure import Figure


def write(result: Result, out: Path) -> None:
    """Write every file to the folder ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    (out / "bench.md").write_text(markdown(result))
    _throughput_latency(result).savefig(out / "throughput-latency.png", dpi=110)
    _rows_per_batch(result).savefig(out / "rows-per-batch.png", dpi=110)
    _where_time_goes(result).savefig(out / "where-time-goes.png", dpi=110)


def markdown(result: Result) -> str:
    """Tabulate every load with its ratio to the peer at as many clients, the validation, and a scale-out table."""
    peers = {row.clients: row for row in result.rows if row.engine == PEER}
    lines = [
        f"Measured on {result.machine}; model `{result.model}`.",
        "",
        *_table(
            ("engine", "load", "clients", "images/s", "vs peer", "p50 s", "vs peer", "p99 s", "rows/batch"),
            (
                _cells(row, peers.get(row.clients) if row.load.startswith("closed loop") else None)
                for row in result.rows
            ),
        ),
        "",
        "Simulator against the real server, one core for each replica, equal arrivals:",
        "",
        *_table(
            ("replicas", "requests/s", "", "images/s", "p50 s", "p99 s"),
            (
                (
                    str(v.replicas),
                    f"{v.rate:.2f}",
                    who,
                    *(f"{values[k]:.2f}" for k in ("images_per_s", "p50_s", "p99_s")),
                )
                for v in result.validations
                for who, values in (("measured", v.measured), ("simulated", v.simulated))
            ),
        ),
        "",
        "Scale-out, simulated: an hour whose middle third brings four times as many requests, replicas as validated:",
        "",
        *_table(("replicas", "p50 s", "p99 s", "most replicas", "replica hours"), scale_out(result.calibration)),
        "",
    ]
    return "\n".join(lines)


def scale_out(calibration: Calibration) -> Iterable[tuple[str, ...]]:
    """Simulate an hour whose middle third brings four times the requests, on fixed fleets and on one that scales."""
    capacity = 1.0 / (28 * calibration.step(16) / 8)
    jobs, now = [], 0.0
    while now < 3600.0:
        peak = 1200.0 <= now < 2400.0
        # Evenly spaced: the table is about the fleet, not luck.
        now += 1.0 / (capacity * (2.0 if peak else 0.5))
        jobs.append(Job(now, 28))
    fleets = [(str(n), Autoscaler(minimum=n, maximum=n)) for n in (1, 2, 3, 4)]
    for name, scaler in [*fleets, ("1 to 4, by requests in flight", Autoscaler(maximum=4))]:
        outcome = simulate(jobs, calibration, scaler)
        yield (
            name,
            f"{outcome.percentile(50):.1f}",
            f"{outcome.percentile(99):.1f}",
            str(outcome.most_replicas),
            f"{outcome.replica_seconds / 3600.0:.2f}",
        )


def _cells(row: Row, peer: Row | None) -> tuple[str, ...]:
    faster = f"{row.images_per_s / peer.images_per_s:.2f}x" if peer else ""
    sooner = f"{row.p50_s / peer.p50_s:.2f}x" if peer else ""
    batch = f"{row.rows_per_batch:.1f}" if row.rows_per_batch else ""
    clients = str(row.clients or "")
    return (
        row.engine,
        row.load,
        clients,
        f"{row.images_per_s:.2f}",
        faster,
        f"{row.p50_s:.3f}",
        sooner,
        f"{row.p99_s:.3f}",
        batch,
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]


def _sweeps(result: Result) -> dict[str, list[Row]]:
    """Group the rows of the closed loops by engine, streams separately."""
    sweeps: dict[str, list[Row]] = {}
    for row in result.rows:
        if row.clients is not None and row.load.startswith("closed loop"):
            sweeps.setdefault(row.engine + row.load.removeprefix("closed loop"), []).append(row)
    return sweeps


def _throughput_latency(result: Result) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name, rows in _sweeps(result).items():
        axis.plot([r.images_per_s for r in rows], [r.p50_s for r in rows], marker="o", label=name)
        axis.fill_between([r.images_per_s for r in rows], [r.p50_s for r in rows], [r.p99_s for r in rows], alpha=0.15)
    axis.set(xlabel="images per second", ylabel="seconds for an image, p50 to p99", ylim=(0, None), xlim=(0, None))
    axis.set_title("each point one number of clients; right and low is better")
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


def _rows_per_batch(result: Result) -> Figure:
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    for name, rows in _sweeps(result).items():
        points = [(r.clients, r.rows_per_batch) for r in rows if r.rows_per_batch]
        if points:
            axis.plot(*zip(*points), marker="o", label=name)
    axis.set(xlabel="clients", ylabel="rows in a denoiser batch", ylim=(0, None))
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


def _where_time_goes(result: Result) -> Figure:
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    rows = [row for row in result.rows if row.busy and row.clients is not None and row.load == "closed loop"]
    labels = [f"{row.engine}, {row.clients}" for row in rows]
    left = [0.0] * len(rows)
    for name in rows[0].busy if rows else ():
        widths = [row.busy[name] for row in rows]
        axis.barh(labels, widths, left=left, label=name)
        left = [start + width for start, width in zip(left, widths)]
    axis.barh(labels, [max(0.0, 1.0 - each) for each in left], left=left, color="#d2d2d2", label="elsewhere")
    axis.set(xlabel="share of the time, by engine and clients")
    axis.invert_yaxis()
    axis.legend(fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
