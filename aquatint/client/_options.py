"""What every client can be configured with, and when a failed call is retried."""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass
from typing import Any

import tenacity

from aquatint.contract.errors import EngineUnavailable, Overloaded
from aquatint.contract.request import GenerationRequest
from aquatint.settings import ClientSettings

_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


# Messages of any size, as in Triton's clients by default, and a server that comes back is noticed within a second.
GRPC_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


@dataclass(frozen=True)
class Options:
    """Connection, models, deadline and retries.

    ``models`` begins with the default one. ``stall_timeout_s`` limits the silence between two answers of a stream.
    """

    url: str
    models: tuple[str, ...]
    timeout_s: float
    stall_timeout_s: float
    retries: int

    @classmethod
    def from_settings(cls, settings: ClientSettings) -> Options:
        """Read the options from ``AQUATINT_*`` variables."""
        names = (settings.model, *settings.models)
        # The default model first, and each name once.
        models = tuple(dict.fromkeys(names))
        return cls(settings.url, models, settings.timeout_s, settings.stall_timeout_s, settings.retries)

    @property
    def model(self) -> str:
        """The model that is used when a request names none."""
        return self.models[0]

    def retrying(self, timeout_s: float) -> dict[str, Any]:
        """Build tenacity's arguments: retry only errors that say "later", while ``timeout_s`` leaves time for a try."""
        return {
            "retry": tenacity.retry_if_exception_type((Overloaded, EngineUnavailable)),
            # A wait that would outlast the deadline is not begun: the caller gets the error at once.
            "stop": tenacity.stop_after_attempt(self.retries + 1) | tenacity.stop_before_delay(timeout_s),
            "wait": _wait_s,
            "reraise": True,
        }


# Three retries take at least 1.4 s together, longer than gRPC waits before it reconnects.
_back_off_s = tenacity.wait_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)


def _wait_s(state: tenacity.RetryCallState) -> float:
    """Back off exponentially, with jitter, but at least as long as an overloaded server asks."""
    error = None if state.outcome is None else state.outcome.exception()
    asked_s = error.retry_after_s if isinstance(error, Overloaded) else None
    return max(_back_off_s(state), asked_s or 0.0) + random.uniform(0.0, _FIRST_WAIT_S)


def with_seed(request: GenerationRequest) -> GenerationRequest:
    """Fix the seed before the first try, so that a retry generates the same image."""
    return request if request.seed is not None else request.model_copy(update={"seed": secrets.randbelow(2**32)})
