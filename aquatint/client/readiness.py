"""Ask a server whether it is ready."""

from __future__ import annotations

import time

import httpx

from aquatint.contract.errors import EngineUnavailable

_POLL_S = 0.5


def is_ready(url: str) -> bool:
    """Return whether ``url`` answers with success."""
    try:
        return httpx.get(url, timeout=5.0).is_success
    except httpx.HTTPError:
        return False


def wait_until_ready(url: str, within_s: float) -> None:
    """Wait until ``url`` answers with success. Raises ``EngineUnavailable`` if it does not in time."""
    deadline = time.monotonic() + within_s
    while not is_ready(url):
        if time.monotonic() > deadline:
            raise EngineUnavailable(f"{url} is not ready after {within_s:g} s")
        time.sleep(_POLL_S)
