"""``aquatint bench``: every engine against the peer in one run, under several loads; JSON, Markdown and plots.

The peer is what this project grew from: one diffusers pipeline behind KServe's V1 protocol, one request at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from aquatint_benchmarks import loads, perf_analyzer
from aquatint_benchmarks.loads import Replay
from aquatint_benchmarks.metrics import Usage, snapshot
from aquatint_benchmarks.perf_analyzer import Load
from aquatint_benchmarks.simulator import Autoscaler, Calibration, Job, calibrate, simulate

from aquatint.client import readiness
from aquatint.contract.request import GenerationRequest
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings

MODEL = "mini"
PEER = "KServe V1, diffusers"
PROMPTS = ("a flat emoji of a fox on a blue background", "an owl, noto style", "draw a car on a red background")
# Shares of the server's highest throughput.
POISSON_SHARES = (0.5, 0.8)
# Requests of a mixed load for each one that a closed-loop client sends.
_MIXED_PER_CLIENT = 5
_VALIDATION_SHARE = 0.6
_SERVER_READY_S = 180.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One measured load; ``busy`` is each component's share of wall time, ``load`` what the engine was asked for."""

    engine: str
    load: str
    clients: int | None
    images_per_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    rows_per_batch: float | None = None
    busy: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """The simulator's results beside the real server's, for one number of replicas."""

    replicas: int
    rate: float
    measured: dict[str, float]
    simulated: dict[str, float]


@dataclass(frozen=True)
class Result:
    """Everything one run measured."""

    machine: str
    model: str
    rows: list[Row]
    calibration: Calibration
    validations: list[Validation]


def machine() -> str:
    """Describe the machine that the numbers were measured on."""
    memory = psutil.virtual_memory().total >> 30
    return f"{platform.machine()}, {psutil.cpu_count()} cores, {memory} GiB, {_gpu() or 'no GPU'}"


def engines() -> list[str]:
    """List the engines that can run on this machine; TensorRT needs a GPU."""
    return ["onnx", *(["tensorrt"] if _gpu() else []), "torch", "diffusers"]


def _gpu() -> str | None:
    import torch  # noqa: PLC0415 - takes seconds to load

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def run(checkpoint: Path, engines: list[str], *, clients: list[int], per_client: int, out: Path, say: Say) -> Result:
    """Measure the peer, every engine, the mixes on the first engine, and the simulator against 1 and 2 replicas."""
    out.mkdir(parents=True, exist_ok=True)
    rows = list(_peer(checkpoint, clients, per_client=per_client, say=say))
    for index, engine in enumerate(engines):
        repository = export(checkpoint, engine, out=out / "repositories" / engine, say=say)
        with TritonServer(repository, _free_ports()) as server:
            bench = _Engine(engine, server, per_client=per_client, say=say)
            bench.warm_up()
            rows += [bench.closed(model, n) for model in _models(engine) for n in clients]
            if index == 0:
                most = max(row.images_per_s for row in rows if row.engine == engine)
                rows += bench.mixes(most)
    first = out / "repositories" / engines[0]
    calibration, validations = _validate(first, per_client, say)
    return Result(machine(), str(checkpoint), rows, calibration, validations)


def _models(engine: str) -> tuple[str, ...]:
    # A pipeline that generates one request at a time has nothing to gain from the stream.
    return (MODEL,) if engine == "diffusers" else (MODEL, f"{MODEL}_stream")


def _free_ports() -> ServerSettings:
    return ServerSettings(http_port=0, grpc_port=0, metrics_port=0, ready_timeout_s=_SERVER_READY_S)


def export(checkpoint: Path, engine: str, *, out: Path, say: Say) -> Path:
    """Export a checkpoint for an engine, in a process of its own; return the repository."""
    say(f"export for {engine}")
    command = [sys.executable, "-m", "aquatint.cli.app", "export", str(checkpoint), "--out", str(out), "--name", MODEL]
    done = subprocess.run([*command, "--engine", engine], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the export for {engine} failed: {done.stderr[-1000:]}")
    return out


def _peer(checkpoint: Path, clients: list[int], *, per_client: int, say: Say) -> Iterator[Row]:
    with _runtime(checkpoint) as url:
        loads.predict_v1(url, MODEL, prompts=list(PROMPTS), clients=1, requests=2)
        for count in clients:
            say(f"{PEER}: {count} clients")
            # One at a time: with more clients each waits longer, so fewer requests of each tell the same.
            requests = max(per_client, 4 * count)
            replayed = loads.predict_v1(url, MODEL, prompts=list(PROMPTS), clients=count, requests=requests)
            yield _row(PEER, "closed loop", clients=count, replayed=replayed)


@contextlib.contextmanager
def _runtime(checkpoint: Path) -> Iterator[str]:
    http, grpc = _free_port(), _free_port()
    command = [sys.executable, "-m", "aquatint_backends.aquatint_runtime"]
    command += [f"--http_port={http}", f"--grpc_port={grpc}"]
    environment = {**os.environ, "MODEL_ID": str(checkpoint), "MODEL_NAME": MODEL}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            readiness.wait_until_ready(f"http://127.0.0.1:{http}/v2/models/{MODEL}/ready", within_s=300.0)
            yield f"http://127.0.0.1:{http}"
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _row(engine: str, load: str, *, clients: int | None, replayed: Replay, used: Usage | None = None) -> Row:
    p50, p90, p99 = (replayed.percentile(percent) for percent in (50, 90, 99))
    return Row(engine, load, clients, replayed.throughput, p50, p90, p99, *_shares(used))


def _shares(used: Usage | None) -> tuple[float | None, dict[str, float]]:
    """Compute the rows per batch, and each component's share of the time."""
    if used is None or not used.denoiser_batches:
        return None, {}
    busy = {name: seconds / used.wall_s for name, seconds in used.busy_s.items()}
    return used.denoiser_rows / used.denoiser_batches, busy


class _Engine:
    """One engine on its server."""

    def __init__(self, name: str, server: TritonServer, *, per_client: int, say: Say) -> None:
        self._name, self._server, self._per_client, self._say = name, server, per_client, say
        self._mixed = _MIXED_PER_CLIENT * per_client

    def warm_up(self) -> None:
        """Let compiled engines compile and caches fill."""
        with self._data([{}]) as data:
            for model in _models(self._name):
                perf_analyzer.measure(model, self._server.grpc_url, load=Load(8, clients=4), input_data=data)

    def closed(self, model: str, clients: int) -> Row:
        """Measure ``clients`` that each send their next request after the last."""
        load = Load(max(8, clients * self._per_client), clients=clients)
        kind = "closed loop, streamed" if model.endswith("_stream") else "closed loop"
        return self._measure(model, kind, load=load, variants=[{}])

    def mixes(self, most: float) -> Iterator[Row]:
        """Measure random arrivals, mixed sizes and steps, clients that leave; ``most`` is the top throughput seen."""
        for share in POISSON_SHARES:
            load = Load(self._mixed, poisson_rate=share * most)
            yield self._measure(MODEL, f"Poisson at {share:.0%} of its most", load=load, variants=[{}])
        load = Load(self._mixed, clients=4)
        steps = [{"num_inference_steps": [n]} for n in (8, 28, 50)]
        yield self._measure(MODEL, "mixed steps: 8, 28, 50", load=load, variants=steps)
        sizes = [{"width": [side], "height": [side]} for side in (32, 64, 96)]
        yield self._measure(MODEL, "mixed sizes: 32, 64, 96 pixels", load=load, variants=sizes)
        for leaving in (0.0, 0.3):
            self._say(f"{self._name}: {leaving:.0%} leave")
            arrivals = loads.poisson(_requests(self._mixed), POISSON_SHARES[-1] * most, leaving=leaving)
            before = snapshot(self._server.metrics_url)
            replayed = loads.replay(arrivals, [self._server.grpc_url], MODEL)
            used = snapshot(self._server.metrics_url) - before
            load_name = f"Poisson at {POISSON_SHARES[-1]:.0%}, streamed, {leaving:.0%} leave half way"
            yield _row(self._name, load_name, clients=None, replayed=replayed, used=used)

    def _measure(self, model: str, kind: str, *, load: Load, variants: list[dict[str, Any]]) -> Row:
        self._say(f"{self._name}: {kind}" + (f", {load.clients} clients" if load.clients else ""))
        before = snapshot(self._server.metrics_url)
        with self._data(variants) as data:
            measured = perf_analyzer.measure(model, self._server.grpc_url, load=load, input_data=data)
        used = snapshot(self._server.metrics_url) - before
        latencies = (measured.p50_s, measured.p90_s, measured.p99_s)
        return Row(self._name, kind, load.clients, measured.throughput, *latencies, *_shares(used))

    @contextlib.contextmanager
    def _data(self, variants: list[dict[str, Any]]) -> Iterator[Path]:
        """Write perf_analyzer's input file: every prompt with every variant of the other fields."""
        pairs = itertools.product(PROMPTS, variants)
        rows = [{"prompt": [prompt], "seed": [seed], **variant} for seed, (prompt, variant) in enumerate(pairs)]
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "input.json"
            path.write_text(json.dumps({"data": rows}))
            yield path


def _requests(count: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(prompt=PROMPTS[seed % len(PROMPTS)], seed=seed, num_inference_steps=28)
        for seed in range(count)
    ]


def _validate(repository: Path, per_client: int, say: Say) -> tuple[Calibration, list[Validation]]:
    """Calibrate on one replica that has a core to itself, then replay equal arrivals on 1 and 2 replicas."""
    cores, mixed = sorted(os.sched_getaffinity(0))[:2], _MIXED_PER_CLIENT * per_client
    with contextlib.ExitStack() as stack:
        servers = [_pinned(stack, repository, core) for core in cores]
        rows, step_s, alone_s, most = [], [], 0.0, 0.0
        for clients in (1, 2, 4, 8):
            say(f"calibrate the simulator: {clients} clients")
            arrivals = [loads.Arrival(0.0, request) for request in _requests(clients)]
            before = snapshot(servers[0].metrics_url)
            replays = [loads.replay(arrivals, [servers[0].grpc_url], MODEL) for _ in range(max(2, per_client // 2))]
            used = snapshot(servers[0].metrics_url) - before
            rows.append(used.denoiser_rows / used.denoiser_batches)
            step_s.append(used.wall_s / used.denoiser_batches)
            most = max(most, sum(len(each.latencies_s) for each in replays) / used.wall_s)
            alone_s = alone_s or min(each.percentile(50) for each in replays)
        calibration = calibrate(rows, step_s, alone_s=alone_s, steps=28)
        return calibration, [
            _compare(
                calibration,
                servers[:count],
                rate=most * _VALIDATION_SHARE * count,
                requests=count * mixed,
                say=say,
            )
            for count in range(1, len(servers) + 1)
        ]


def _pinned(stack: contextlib.ExitStack, repository: Path, core: int) -> TritonServer:
    """Start a server whose processes share one core: replicas on one machine must not take each other's time."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return stack.enter_context(TritonServer(repository, _free_ports()))
    finally:
        os.sched_setaffinity(0, everywhere)


def _compare(
    calibration: Calibration, servers: list[TritonServer], *, rate: float, requests: int, say: Say
) -> Validation:
    say(f"validate the simulator: {len(servers)} replicas")
    arrivals = loads.poisson(_requests(requests), rate, seed=1)
    replayed = loads.replay(arrivals, [server.grpc_url for server in servers], MODEL)
    scaler = Autoscaler(minimum=len(servers), maximum=len(servers))
    simulated = simulate([Job(arrival.at_s, 28) for arrival in arrivals], calibration, scaler)

    def described(outcome: Any) -> dict[str, float]:
        percentiles = {f"p{p}_s": outcome.percentile(p) for p in (50, 99)}
        return {"images_per_s": outcome.throughput, **percentiles}

    return Validation(len(servers), rate, described(replayed), described(simulated))
