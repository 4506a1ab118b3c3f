"""Loads that perf_analyzer lacks: replayed arrivals, clients that leave, and KServe's V1 protocol."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field

import httpx
import numpy as np

from aquatint.client import AsyncClient, Progress, connect_async
from aquatint.contract.request import GenerationRequest

_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Arrival:
    """A request and when it comes, in seconds after the start; it leaves after ``leaves_after`` steps, if set."""

    at_s: float
    request: GenerationRequest
    leaves_after: int | None = None


@dataclass
class Replay:
    """What became of a replayed load; latencies in seconds, of the requests that stayed, in the order they came."""

    latencies_s: list[float] = field(default_factory=list)
    gone: int = 0
    wall_s: float = 0.0

    @property
    def throughput(self) -> float:
        """The finished requests per second."""
        return len(self.latencies_s) / self.wall_s

    def percentile(self, percent: float) -> float:
        """Compute a percentile of the latencies."""
        return float(np.percentile(self.latencies_s, percent))


def poisson(requests: list[GenerationRequest], rate: float, *, leaving: float = 0.0, seed: int = 0) -> list[Arrival]:
    """Make requests arrive randomly at ``rate`` per second; a share ``leaving`` goes away halfway through its steps."""
    rng = random.Random(seed)
    arrivals, now = [], 0.0
    for request in requests:
        now += rng.expovariate(rate)
        steps = request.num_inference_steps or 2
        arrivals.append(Arrival(now, request, steps // 2 if rng.random() < leaving else None))
    return arrivals


def replay(arrivals: list[Arrival], urls: list[str], model: str) -> Replay:
    """Send every request when it is due, to the servers in turn, over streams."""
    return asyncio.run(_replay(arrivals, urls, model))


async def _replay(arrivals: list[Arrival], urls: list[str], model: str) -> Replay:
    result = Replay()
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect_async(url=url, protocol="grpc", model=model, retries=0))
            for url in urls
        ]
        began = time.perf_counter()

        async def one(index: int, arrival: Arrival) -> float | None:
            await asyncio.sleep(max(0.0, began + arrival.at_s - time.perf_counter()))
            started = time.perf_counter()
            stayed = await _generate(clients[index % len(clients)], arrival)
            return time.perf_counter() - started if stayed else None

        ended = await asyncio.gather(*(one(index, arrival) for index, arrival in enumerate(arrivals)))
        result.wall_s = time.perf_counter() - began
    result.latencies_s = [seconds for seconds in ended if seconds is not None]
    result.gone = sum(seconds is None for seconds in ended)
    return result


async def _generate(client: AsyncClient, arrival: Arrival) -> bool:
    async with contextlib.aclosing(client.stream(arrival.request, timeout_s=_TIMEOUT_S)) as events:
        async for event in events:
            if isinstance(event, Progress) and event.step == arrival.leaves_after:
                return False
    return True


def predict_v1(url: str, model: str, *, prompts: list[str], clients: int, requests: int) -> Replay:
    """Let ``clients`` each send their next KServe V1 request after the last; ``requests`` in all."""
    return asyncio.run(_predict_v1(f"{url}/v1/models/{model}:predict", prompts, clients=clients, requests=requests))


async def _predict_v1(url: str, prompts: list[str], *, clients: int, requests: int) -> Replay:
    result = Replay()
    waiting = iter(range(requests))
    began = time.perf_counter()

    async def client(http: httpx.AsyncClient) -> None:
        for index in waiting:
            started = time.perf_counter()
            response = await http.post(url, json={"instances": [{"prompt": prompts[index % len(prompts)]}]})
            response.raise_for_status()
            result.latencies_s.append(time.perf_counter() - started)

    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    result.wall_s = time.perf_counter() - began
    return result
