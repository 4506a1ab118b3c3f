"""Requests that step together, without a server: each ends once, alone or in company it gets the same latents."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError
from aquatint.diffusion import families, samplers
from aquatint.diffusion.arrays import HOST, Arrays
from aquatint.diffusion.in_flight import POLICIES, Flight, InFlight
from aquatint.diffusion.rows import Tensors
from aquatint.diffusion.samplers.flow_match import FlowMatchConfig
from aquatint.diffusion.served_model import SkipLayerGuidance
from aquatint.diffusion.slot import Slot

MAX_ROWS = 8
SD3 = families.registry()["sd3"]
SKIP_LAYERS = SkipLayerGuidance(scale=1.5, start=0.0, stop=0.6)


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Engine:
    """A velocity that depends on every input of a row and on nothing else; fails when it is told to."""

    calls: list[list[float]] = field(default_factory=list)
    failing: bool = False
    arrays: Arrays = HOST

    def __call__(self, inputs: Tensors) -> NDArray[np.float32]:
        assert len({len(value) for value in inputs.values()}) == 1
        assert len(inputs["timestep"]) <= MAX_ROWS
        if self.failing:
            raise RuntimeError("the device fell off the bus")
        self.calls.append(inputs["pooled_projections"][:, 0].tolist())
        per_row = inputs["timestep"] / 1000 + inputs["pooled_projections"].sum(axis=1)
        per_row = per_row + inputs["encoder_hidden_states"].sum(axis=(1, 2)) - 0.3 * inputs.get("skip_layers", 0.0)
        velocity: NDArray[np.float32] = (inputs["hidden_states"] * 0.5 + per_row[:, None, None, None]).astype(
            np.float32
        )
        return velocity


@dataclass
class Outcome:
    """Listens, and insists on one end."""

    steps: list[int] = field(default_factory=list)
    latents: NDArray[np.float32] | None = None
    error: AquatintError | None = None
    previews: int = 0
    gone: bool = False

    @property
    def has_ended(self) -> bool:
        return self.latents is not None or self.error is not None

    def has_gone(self) -> bool:
        return self.gone

    def progressed(self, evaluated: int, evaluations: int, heading_for: NDArray[np.float32] | None) -> None:
        assert not self.has_ended
        self.steps.append(evaluated)
        self.previews += heading_for is not None

    def finished(self, latents: NDArray[np.float32], statistics: dict[str, float]) -> None:
        assert not self.has_ended
        assert statistics["rows"] >= len(latents)
        self.latents = latents

    def failed(self, error: AquatintError) -> None:
        assert not self.has_ended
        self.error = error


def make_slot(  # noqa: PLR0913 - whatever a test wants to vary
    seed: int,
    *,
    steps: int = 3,
    images: int = 1,
    side: int = 4,
    guided: bool = True,
    sampler: str = "euler",
    skips: bool = False,
) -> Slot:
    """A request whose conditioning names its seed in every row."""
    chance = np.random.default_rng(seed)
    rows = images * (2 if guided else 1)
    pooled = chance.standard_normal((rows, 3)).astype(np.float32)
    pooled[:, 0] = seed
    return Slot(
        family=SD3,
        latents=chance.standard_normal((images, 2, side, side)).astype(np.float32),
        conditioning={
            "encoder_hidden_states": chance.standard_normal((rows, 2, 3)).astype(np.float32),
            "pooled_projections": pooled,
        },
        sampler=samplers.registry()[sampler](FlowMatchConfig(shift=3.0), steps, 4),
        guidance_scale=2.0 if guided else None,
        skip_layers=SKIP_LAYERS if skips else None,
        num_inference_steps=steps,
        preview_every=2,
    )


def alone(slot: Slot) -> NDArray[np.float32]:
    outcome = Outcome()
    flights = InFlight(Engine(), MAX_ROWS)
    flights.join(Flight(slot, outcome))
    while flights.step():
        pass
    assert outcome.latents is not None
    return outcome.latents


@pytest.mark.parametrize("policy", POLICIES)
def test_company_changes_nothing(policy: str) -> None:
    """A hundred random mixes of joins, cancels and neighbours: whoever finishes has what it would have had alone."""
    for mix in range(100):
        chance = random.Random(mix)
        flights = InFlight(Engine(), MAX_ROWS, policy=POLICIES[policy])
        skips = chance.random() < 0.3
        made = []
        for seed in range(chance.randrange(2, 9)):
            kind = {
                "steps": chance.randrange(1, 9),
                "images": chance.randrange(1, 6),
                "side": chance.choice([4, 6]),
                "guided": chance.random() < 0.7,
                "sampler": chance.choice(["euler", "heun"]),
            }
            made.append((seed, kind, Flight(make_slot(seed, skips=skips, **kind), Outcome())))  # type: ignore[arg-type]
        waiting, cancelled = list(made), set()
        while waiting or flights.step():
            if waiting and chance.random() < 0.5:
                flights.join(waiting.pop(0)[2])
            if chance.random() < 0.05:
                seed, _, flight = chance.choice(made)
                flight.listener.gone = True  # type: ignore[attr-defined]
                cancelled.add(seed)
            if waiting:
                flights.step()
        for seed, kind, flight in made:
            outcome = flight.listener
            assert isinstance(outcome, Outcome)
            assert outcome.has_ended
            if outcome.latents is None:
                assert seed in cancelled
                assert isinstance(outcome.error, errors.Cancelled)
            else:
                expected = alone(make_slot(seed, skips=skips, **kind))  # type: ignore[arg-type]
                assert outcome.latents.tobytes() == expected.tobytes()
                assert outcome.steps == list(range(1, flight.slot.evaluations + 1))


class Flights(RuleBasedStateMachine):
    """Anything may happen at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.engine = Clock(), Engine()
        self.flights = InFlight(self.engine, MAX_ROWS, policy=random.choice(list(POLICIES.values())), clock=self.clock)
        self.joined: list[tuple[Flight, Outcome]] = []
        self.waited: dict[int, int] = {}

    @rule(
        steps=st.integers(1, 12),
        images=st.integers(1, 6),
        side=st.sampled_from([4, 6]),
        guided=st.booleans(),
        priority=st.integers(0, 2),
        within_s=st.none() | st.floats(0.5, 60.0),
    )
    def join(self, steps: int, images: int, side: int, guided: bool, priority: int, within_s: float | None) -> None:
        slot = make_slot(len(self.joined), steps=steps, images=images, side=side, guided=guided)
        due = None if within_s is None else self.clock() + within_s
        outcome = Outcome()
        flight = Flight(slot, outcome, priority, due)
        self.flights.join(flight)
        self.joined.append((flight, outcome))

    @precondition(lambda self: self.joined)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.joined))[1].gone = True

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(failing=st.sampled_from([False] * 6 + [True]))
    def step(self, failing: bool) -> None:
        self.engine.failing = failing
        before = len(self.engine.calls)
        in_flight = [(flight, outcome) for flight, outcome in self.joined if not outcome.has_ended]
        ended = {id(outcome) for _, outcome in self.joined if outcome.has_ended}
        self.flights.step()
        self.engine.failing = False
        stepped = {int(seed) for call in self.engine.calls[before:] for seed in call}
        for number, (flight, outcome) in enumerate(self.joined):
            if id(outcome) in ended:
                # No row is computed for a request that has ended.
                assert number not in stepped
            elif (flight, outcome) in in_flight and not outcome.has_ended and stepped:
                self.waited[number] = 0 if number in stepped else self.waited.get(number, 0) + 1
        rows = [seed for call in self.engine.calls[before:] for seed in call]
        for number in stepped:
            images = len(self.joined[number][0].slot.latents)
            # No row is computed twice: each image once, or twice with guidance.
            assert rows.count(number) in (images, 2 * images)

    @invariant()
    def nobody_starves(self) -> None:
        count = sum(not outcome.has_ended for _, outcome in self.joined)
        for number, calls in self.waited.items():
            if not self.joined[number][1].has_ended:
                assert calls <= 17 + count

    def teardown(self) -> None:
        for _ in range(10_000):
            if not self.flights.step():
                break
        assert len(self.flights) == 0
        for flight, outcome in self.joined:
            assert outcome.has_ended
            if outcome.latents is not None:
                assert outcome.steps == list(range(1, flight.slot.evaluations + 1))


TestFlights = Flights.TestCase
TestFlights.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_newcomer_joins_at_the_next_call() -> None:
    engine = Engine()
    flights = InFlight(engine, MAX_ROWS)
    flights.join(Flight(make_slot(1, steps=150), Outcome()))
    for _ in range(70):
        flights.step()
    newcomer = Outcome()
    flights.join(Flight(make_slot(2, steps=4), newcomer))
    flights.step()
    assert newcomer.steps == [1]
    assert engine.calls[-1] == [1, 1, 2, 2]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_long_request_holds_nobody_up_and_does_not_starve(policy: str) -> None:
    """150 steps of as many rows as fit, while short requests keep coming."""
    flights = InFlight(Engine(), MAX_ROWS, policy=POLICIES[policy])
    long = Outcome()
    flights.join(Flight(make_slot(0, steps=150, images=4), long))
    calls, seed, took = 0, 0, []
    while not long.has_ended:
        seed += 1
        short = Outcome()
        flights.join(Flight(make_slot(seed, steps=4, images=1), short))
        started = calls
        while not short.has_ended:
            flights.step()
            calls += 1
        took.append(calls - started)
        assert calls < 150 * 20
    assert max(took) <= 9


def test_a_failing_engine_fails_its_batch_alone() -> None:
    engine = Engine()
    flights = InFlight(engine, MAX_ROWS)
    first, second, other = Outcome(), Outcome(), Outcome()
    flights.join(Flight(make_slot(1, side=4), first))
    flights.join(Flight(make_slot(2, side=4), second))
    flights.join(Flight(make_slot(3, side=6), other))
    engine.failing = True
    flights.step()
    engine.failing = False
    assert isinstance(first.error, errors.Internal)
    assert isinstance(second.error, errors.Internal)
    assert "bus" not in str(first.error)
    while flights.step():
        pass
    assert other.latents is not None


def test_what_cannot_be_done_in_time_is_refused_at_once() -> None:
    clock = Clock()

    class Slow(Engine):
        def __call__(self, inputs: Tensors) -> NDArray[np.float32]:
            clock.now += 1.0
            return super().__call__(inputs)

    flights = InFlight(Slow(), MAX_ROWS, clock=clock)
    flights.join(Flight(make_slot(1, steps=2), Outcome()))
    flights.step()
    with pytest.raises(errors.DeadlineExceeded, match=r"needs about 20\.0 s"):
        flights.join(Flight(make_slot(2, steps=20), Outcome(), deadline=clock() + 10.0))
    flights.join(Flight(make_slot(3, steps=5), Outcome(), deadline=clock() + 10.0))


def test_closing_ends_everything_and_lets_nobody_in() -> None:
    flights = InFlight(Engine(), MAX_ROWS)
    outcome = Outcome()
    flights.join(Flight(make_slot(1), outcome))
    flights.close()
    flights.step()
    assert isinstance(outcome.error, errors.EngineUnavailable)
    with pytest.raises(errors.EngineUnavailable):
        flights.join(Flight(make_slot(2), Outcome()))


def test_conditioning_is_joined_once_while_the_members_stay() -> None:
    seen = []

    class Watching(Engine):
        def __call__(self, inputs: Tensors) -> NDArray[np.float32]:
            seen.append(inputs["encoder_hidden_states"])
            return super().__call__(inputs)

    flights = InFlight(Watching(), MAX_ROWS)
    for seed in (1, 2):
        flights.join(Flight(make_slot(seed, steps=3), Outcome()))
    for _ in range(3):
        flights.step()
    assert seen[0] is seen[1] is seen[2]


def test_the_batch_of_the_call_before_is_used_again() -> None:
    """Whatever order the policy prefers, those that step together again are joined in the same order."""
    engine = Engine()
    flights = InFlight(engine, MAX_ROWS, policy=POLICIES["shortest"])
    for seed, steps in ((1, 9), (2, 4), (3, 6)):
        flights.join(Flight(make_slot(seed, steps=steps), Outcome()))
    for _ in range(3):
        flights.step()
    assert [call[0::2] for call in engine.calls] == [[1.0, 2.0, 3.0]] * 3
