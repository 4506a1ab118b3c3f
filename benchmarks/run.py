"""``make bench``: the mini model served by Triton against the same checkpoint in a plain diffusers pipeline.

Both draw the same pictures (64x64, 28 steps, guidance 4.5) on the same machine in the same run. The peer serves one
request at a time, as a pipeline behind a lock does; at N clients its latency is N times its time for one picture.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from diffusers import StableDiffusion3Pipeline
from rich.console import Console
from rich.table import Table

from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from benchmarks import perf_analyzer
from benchmarks.metrics import Metrics

CONCURRENCY = (1, 2, 4, 8)
REQUESTS_PER_CLIENT = 12
PEER_PICTURES = 12
PROMPTS = ("a flat emoji of a fox on a blue background", "an owl, noto style", "draw a car on a red background")


@dataclass(frozen=True)
class Row:
    """One measured load. ``overhead`` is the share of time that was not spent inside a component."""

    front: str
    clients: int
    images_per_s: float
    p50_s: float
    p99_s: float
    rows_per_batch: float
    overhead: float


def peer_seconds(checkpoint: Path) -> list[float]:
    """Seconds per picture of the plain diffusers pipeline, after two warm-up pictures."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(checkpoint, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    seconds = []
    for index in range(PEER_PICTURES + 2):
        started = time.perf_counter()
        pipeline(
            PROMPTS[index % len(PROMPTS)],
            num_inference_steps=28,
            guidance_scale=4.5,
            generator=torch.Generator("cpu").manual_seed(index),
            # The same sequence length that the server uses; diffusers' default of 256 is slower still.
            max_sequence_length=pipeline.tokenizer_3.model_max_length,
        )
        seconds.append(time.perf_counter() - started)
    return seconds[2:]


def measure(server: TritonServer, front: str, clients: int, input_data: Path) -> Row:
    """One load on one front."""
    metrics = Metrics(server.metrics_url)
    before = metrics.snapshot("mini")
    measured = perf_analyzer.measure(
        front,
        server.grpc_url,
        clients,
        clients * REQUESTS_PER_CLIENT,
        input_data,
        stream=front.endswith("_stream"),
    )
    used = metrics.snapshot("mini") - before
    # The unary report counts pictures, the streamed one answers: one per step and one for the picture.
    images_per_s = used.images / used.wall_s if front.endswith("_stream") else measured.throughput
    return Row(
        front,
        clients,
        images_per_s,
        measured.p50_s,
        measured.p99_s,
        used.transformer_rows / used.transformer_batches,
        max(0.0, 1.0 - used.busy_s / used.wall_s),
    )


def run(repository: Path, checkpoint: Path) -> tuple[float, list[Row]]:
    """Measure the peer, then every load. Returns the peer's median seconds per picture and the rows."""
    peer = statistics.median(peer_seconds(checkpoint))
    settings = ServerSettings(http_port=0, grpc_port=0, metrics_port=0)
    with tempfile.TemporaryDirectory() as scratch, TritonServer(repository, settings) as server:
        input_data = Path(scratch) / "prompts.json"
        data = [{"prompt": [prompt], "seed": [index]} for index, prompt in enumerate(PROMPTS)]
        input_data.write_text(json.dumps({"data": data}))
        perf_analyzer.measure("mini", server.grpc_url, 2, 8, input_data)
        rows = [measure(server, front, n, input_data) for front in ("mini", "mini_stream") for n in CONCURRENCY]
    return peer, rows


def table(peer_s: float, rows: list[Row]) -> Table:
    """The README's table."""
    view = Table("front", "clients", "images/s", "vs peer", "p50 s", "vs peer", "p99 s", "rows/batch", "overhead")
    for row in rows:
        view.add_row(
            row.front,
            str(row.clients),
            f"{row.images_per_s:.2f}",
            f"{row.images_per_s * peer_s:.2f}x",
            f"{row.p50_s:.3f}",
            f"{row.p50_s / (peer_s * row.clients):.2f}x",
            f"{row.p99_s:.3f}",
            f"{row.rows_per_batch:.1f}",
            f"{100 * row.overhead:.0f} %",
        )
    return view


def main() -> None:
    """Parse the arguments, measure, print the table and write ``build/bench.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    peer_s, rows = run(arguments.repository, arguments.checkpoint)
    machine = f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB"
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    measured = {"machine": machine, "peer_s": peer_s, "rows": [asdict(row) for row in rows]}
    arguments.json.write_text(json.dumps(measured, indent=1) + "\n")
    console = Console(width=120)
    console.print(
        f"machine: {machine}; peer (diffusers, one at a time): {peer_s:.3f} s a picture, {1 / peer_s:.2f} images/s"
    )
    console.print(table(peer_s, rows))


if __name__ == "__main__":
    main()
