"""What both clients retry, how long they wait first, and when they give up. Nobody really sleeps here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from aquatint.client import Generation, Progress
from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, EngineUnavailable, Overloaded
from aquatint.contract.generation import Event
from aquatint.contract.request import GenerationRequest
from aquatint.testing import FakeTransport, fake_async_client, fake_client

FOX = GenerationRequest(prompt="a fox")
# The longest random addition to a wait.
JITTER_S = 0.2


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._slept_s = 0.0
        self._started = time.monotonic()

    def monotonic(self) -> float:
        return self._started + self._slept_s

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._slept_s += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(asyncio, "sleep", clock.sleep_async)
    return clock


class Recorder(FakeTransport):
    """Remembers the time every try was given; breaks off streams after ``breaks_after`` events."""

    def __init__(self, failures: list[AquatintError], breaks_after: int | None = None) -> None:
        super().__init__(failures=failures)
        self.timeouts: list[float] = []
        self._breaks_after = breaks_after

    def stream(self, model: str, request: GenerationRequest, timeout_s: float) -> Iterator[Event]:
        self.timeouts.append(timeout_s)
        for index, event in enumerate(super().stream(model, request, timeout_s)):
            if index == self._breaks_after:
                raise EngineUnavailable("died")
            yield event


class Calls:
    """The calls of one client, blocking or not, behind one interface: both must do the same."""

    def __init__(self, kind: str, transport: FakeTransport, retries: int) -> None:
        self._blocking = fake_client(retries=retries, transport=transport) if kind == "blocking" else None
        self._async = fake_async_client(retries=retries, transport=transport)

    async def generate(self, timeout_s: float | None = None) -> Generation:
        if self._blocking is not None:
            return self._blocking.generate(FOX, timeout_s=timeout_s)
        return await self._async.generate(FOX, timeout_s=timeout_s)

    async def stream(self, timeout_s: float | None = None) -> list[Event]:
        if self._blocking is not None:
            return list(self._blocking.stream(FOX, timeout_s=timeout_s))
        return [event async for event in self._async.stream(FOX, timeout_s=timeout_s)]

    async def models(self, _: float | None = None) -> object:
        return self._blocking.models() if self._blocking is not None else await self._async.models()

    async def __call__(self, name: str, timeout_s: float | None = None) -> None:
        await getattr(self, name)(timeout_s)


@pytest.fixture(params=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


GENERATING = pytest.mark.parametrize("call", ["generate", "stream"])
EVERY_CALL = pytest.mark.parametrize("call", ["generate", "stream", "models"])


@EVERY_CALL
async def test_what_says_later_is_tried_again(kind: str, call: str, clock: Clock) -> None:
    transport = Recorder([Overloaded("full"), EngineUnavailable("starting"), Overloaded("full")])
    await Calls(kind, transport, retries=3)(call)
    assert transport.failures == []
    for wait, back_off in zip(clock.waits, [0.2, 0.4, 0.8], strict=True):
        assert back_off <= wait <= back_off + JITTER_S


@GENERATING
async def test_every_try_asks_for_the_same_image_in_the_time_that_remains(kind: str, call: str, clock: Clock) -> None:
    transport = Recorder([Overloaded("full", 1.0), Overloaded("full", 2.0)])
    await Calls(kind, transport, retries=3)(call, 10.0)
    assert len({request.seed for request in transport.requests}) == 1
    assert transport.requests[0].seed is not None
    remaining = [10.0, 10.0 - clock.waits[0], 10.0 - sum(clock.waits)]
    assert transport.timeouts == pytest.approx(remaining)


@EVERY_CALL
async def test_retries_end(kind: str, call: str, clock: Clock) -> None:
    transport = Recorder([Overloaded("full")] * 3)
    with pytest.raises(Overloaded, match="full"):
        await Calls(kind, transport, retries=1)(call)
    assert len(transport.failures) == 1
    assert len(clock.waits) == 1


@EVERY_CALL
@pytest.mark.parametrize(
    "error",
    [errors.InvalidRequest("width"), errors.Cancelled("x"), errors.DeadlineExceeded("x"), errors.OutOfMemory("x")],
)
async def test_other_errors_are_not_tried_again(kind: str, call: str, clock: Clock, error: AquatintError) -> None:
    transport = Recorder([error, Overloaded("full")])
    with pytest.raises(type(error)):
        await Calls(kind, transport, retries=3)(call)
    assert len(transport.failures) == 1
    assert clock.waits == []


async def test_a_stream_that_has_begun_is_not_tried_again(kind: str, clock: Clock) -> None:
    transport = Recorder([], breaks_after=2)
    with pytest.raises(EngineUnavailable, match="died"):
        await Calls(kind, transport, retries=3).stream()
    assert len(transport.requests) == 1
    assert clock.waits == []


async def test_the_first_event_is_not_lost(kind: str, clock: Clock) -> None:
    events = await Calls(kind, Recorder([Overloaded("full")]), retries=3).stream()
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3, 4]
    assert isinstance(events[-1], Generation)


@EVERY_CALL
async def test_an_overloaded_server_is_given_the_time_it_asks_for(kind: str, call: str, clock: Clock) -> None:
    """Whether the hint comes from our own exception or has crossed the wire."""
    crossed = errors.from_wire(f"[request id: 1] {errors.to_wire(Overloaded('full', 1.5))}")
    assert crossed is not None
    await Calls(kind, Recorder([Overloaded("full", 2.5), crossed]), retries=3)(call)
    first, second = clock.waits
    assert 2.5 <= first <= 2.5 + JITTER_S
    assert 2.0 <= second <= 2.0 + JITTER_S


@GENERATING
@pytest.mark.parametrize("timeout_s", [3.0, None])
async def test_no_wait_outlasts_the_deadline(kind: str, call: str, clock: Clock, timeout_s: float | None) -> None:
    """The fake clients' own timeout is 5 s; the second wait would end after either."""
    transport = Recorder([Overloaded("full", 2.0), Overloaded("still full", 4.0)])
    with pytest.raises(Overloaded, match="still full; retry after 4 s"):
        await Calls(kind, transport, retries=3)(call, timeout_s)
    assert len(clock.waits) == 1


@GENERATING
async def test_a_hint_beyond_the_deadline_is_not_waited_for(kind: str, call: str, clock: Clock) -> None:
    with pytest.raises(Overloaded) as caught:
        await Calls(kind, Recorder([Overloaded("full", 3600.0)]), retries=3)(call, 60.0)
    assert caught.value.retry_after_s == 3600.0
    assert clock.waits == []
