"""Images in flight: many requests, each at its own timestep, advance together one evaluation at a time.

``InFlight`` holds slots, chooses which of them share the next call of the engine, and ends each exactly once. It knows
nothing about Triton, threads of others or what multiplies the matrices.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, Cancelled, DeadlineExceeded, EngineUnavailable
from aquatint.diffusion.arrays import Arrays
from aquatint.diffusion.rows import Tensors, call_in_parts
from aquatint.diffusion.slot import Slot, transformer_inputs

# A request that others were preferred to for so many calls is next, whatever the policy says.
_PATIENCE = 16
# Share of the newest call in the running mean of a call's seconds.
_SMOOTHING = 0.2


class Engine(Protocol):
    """What multiplies the matrices: one call of the transformer. ``arrays`` are the device's it computes on."""

    @property
    def arrays(self) -> Arrays:
        """Where it takes latents and conditioning from, and leaves the velocity."""

    def __call__(self, inputs: Tensors) -> Any:
        """Predict the velocity of every row, FP32 ``(rows, channels, h, w)``."""


class Listener(Protocol):
    """Who asked for a slot. Called by the thread that steps, so that it must not wait for anything."""

    def has_gone(self) -> bool:
        """Whether nobody waits for the request any more; asked before every call of the engine."""

    def progressed(self, evaluated: int, evaluations: int, heading_for: NDArray[np.float32] | None) -> None:
        """Tell of an evaluation; ``heading_for`` are the latents of a preview that is due."""

    def finished(self, latents: NDArray[np.float32], statistics: dict[str, float]) -> None:
        """Hand over the final latents."""

    def failed(self, error: AquatintError) -> None:
        """Tell why there will be none."""


@dataclass(eq=False)
class Flight:
    """A slot among others. ``priority`` is better the lower; ``deadline`` is a time of the clock."""

    slot: Slot
    listener: Listener
    priority: int = 0
    deadline: float | None = None
    joined: int = field(default=0, init=False)
    last_stepped: int = field(default=0, init=False)
    calls: int = field(default=0, init=False)
    shared_rows: int = field(default=0, init=False)


Policy = Callable[[Flight], tuple[float, ...]]


def fair(flight: Flight) -> tuple[float, ...]:
    """Prefer what has waited longest."""
    return flight.priority, flight.last_stepped, flight.joined


def shortest(flight: Flight) -> tuple[float, ...]:
    """Prefer what is done soonest."""
    remaining = (flight.slot.evaluations - flight.slot.evaluated) * flight.slot.rows
    return flight.priority, remaining, flight.joined


def deadline(flight: Flight) -> tuple[float, ...]:
    """Prefer what must be done first."""
    due = float("inf") if flight.deadline is None else flight.deadline
    return flight.priority, due, flight.last_stepped, flight.joined


POLICIES: dict[str, Policy] = {"fair": fair, "shortest": shortest, "deadline": deadline}


@dataclass(frozen=True)
class _Batch:
    """Conditioning of flights that step together, joined once for as long as they stay the same."""

    members: tuple[tuple[Flight, int], ...]
    conditioning: Tensors


class InFlight:
    """Slots that step together, at most ``max_rows`` rows in one call.

    ``join`` and ``close`` may be called by any thread, ``step`` by one.
    """

    def __init__(
        self, engine: Engine, max_rows: int, *, policy: Policy = fair, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._max_rows = max_rows
        self._policy = policy
        self._clock = clock
        self._changed = threading.Condition()
        self._flights: list[Flight] = []
        self._calls = 0
        self._batch: _Batch | None = None
        self._call_s: float | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, flight: Flight) -> None:
        """Let a request take part from the next call on.

        Raises ``DeadlineExceeded`` if it could not be done in time even alone, ``EngineUnavailable`` after ``close``.
        """
        with self._changed:
            if self._closed:
                raise EngineUnavailable("the model is being unloaded")
            if flight.deadline is not None and self._call_s is not None:
                needed_s = flight.slot.evaluations * self._call_s
                if self._clock() + needed_s > flight.deadline:
                    raise DeadlineExceeded(f"the request needs about {needed_s:.1f} s, more than its deadline leaves")
            flight.slot.move_to(self._engine.arrays)
            flight.joined = flight.last_stepped = self._calls
            self._flights.append(flight)
            self._changed.notify_all()

    def close(self) -> None:
        """Fail every request at the next call, and refuse new ones."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is something to step; returns whether there is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._flights), timeout_s)

    def step(self) -> bool:
        """Call the engine once for those that the policy prefers; returns whether there was anything to do."""
        with self._changed:
            leaving = [(flight, why) for flight in self._flights if (why := self._reason_to_leave(flight))]
            gone = {flight for flight, _ in leaving}
            self._flights = [flight for flight in self._flights if flight not in gone]
            chosen = self._choose()
        for flight, why in leaving:
            flight.listener.failed(why)
        if not chosen:
            return bool(leaving)
        self._calls += 1
        try:
            velocities = self._evaluate(chosen)
        # Whatever an engine raises ends the requests of this call, once each; the others go on.
        except Exception as error:
            for flight in chosen:
                self._end(flight)
                flight.listener.failed(errors.internal(error))
            return True
        rows = sum(map(len, velocities))
        for flight, velocity in zip(chosen, velocities):
            self._advance(flight, velocity, rows)
        return True

    def _reason_to_leave(self, flight: Flight) -> AquatintError | None:
        if flight.listener.has_gone():
            return Cancelled("the request was cancelled")
        if flight.deadline is not None and self._clock() > flight.deadline:
            return DeadlineExceeded("the request's time ran out")
        return EngineUnavailable("the model is being unloaded") if self._closed else None

    def _choose(self) -> list[Flight]:
        """The preferred request, and in order of preference those that fit into one call with it."""
        ordered = sorted(self._flights, key=lambda flight: (not self._is_starving(flight), *self._policy(flight)))
        chosen: list[Flight] = []
        rows = 0
        for flight in ordered:
            fits = not chosen or (
                flight.slot.batches_with == chosen[0].slot.batches_with and rows + flight.slot.rows <= self._max_rows
            )
            if fits:
                chosen.append(flight)
                rows += flight.slot.rows
        # In order of arrival, so that the batch of the call before can be used again.
        members = set(chosen)
        return [flight for flight in self._flights if flight in members]

    def _is_starving(self, flight: Flight) -> bool:
        return self._calls - flight.last_stepped >= _PATIENCE

    def _evaluate(self, chosen: Sequence[Flight]) -> list[Any]:
        conditioning = self._join_conditioning(chosen)
        inputs = transformer_inputs([flight.slot for flight in chosen], conditioning, self._engine.arrays)
        started = self._clock()
        velocity = self._call(inputs)
        self._note_call(self._clock() - started)
        ends = itertools.accumulate(flight.slot.rows for flight in chosen)
        return [velocity[end - flight.slot.rows : end] for flight, end in zip(chosen, ends)]

    def _join_conditioning(self, chosen: Sequence[Flight]) -> Tensors:
        members = tuple((flight, flight.slot.rows) for flight in chosen)
        if self._batch is None or self._batch.members != members:
            parts = [flight.slot.conditioning() for flight in chosen]
            join = self._engine.arrays.join
            self._batch = _Batch(members, {name: join([part[name] for part in parts]) for name in parts[0]})
        return self._batch.conditioning

    def _call(self, inputs: Tensors) -> Any:
        """Call the engine; a single request of more rows than a call may have is taken apart."""
        return call_in_parts(self._engine, inputs, self._max_rows, join=self._engine.arrays.join)

    def _note_call(self, seconds: float) -> None:
        known = seconds if self._call_s is None else self._call_s
        self._call_s = known + _SMOOTHING * (seconds - known)

    def _advance(self, flight: Flight, velocity: Any, rows: int) -> None:
        flight.last_stepped = self._calls
        flight.calls += 1
        flight.shared_rows += rows
        slot, to_host = flight.slot, self._engine.arrays.to_host
        heading_for = slot.advance(velocity)
        previewed = None if heading_for is None else to_host(heading_for)
        flight.listener.progressed(slot.evaluated, slot.evaluations, previewed)
        if slot.is_finished:
            self._end(flight)
            flight.listener.finished(to_host(slot.latents), {"rows": flight.shared_rows / flight.calls})

    def _end(self, flight: Flight) -> None:
        with self._changed:
            self._flights.remove(flight)
        self._batch = None
