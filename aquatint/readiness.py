"""Wait for servers to become ready, and say so as they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import httpx

from aquatint.errors import InvalidRequest

_POLL_S = 0.5
_REMIND_EVERY_S = 30.0


def parse_parts(parts: list[str]) -> dict[str, str]:
    """``name=url`` each. Raises ``InvalidRequest``."""
    pairs = [part.partition("=") for part in parts]
    for name, equals, url in pairs:
        if not name or not equals or not url.startswith(("http://", "https://")):
            raise InvalidRequest(f"part: {name}{equals}{url} is not NAME=URL")
    return {name: url for name, _, url in pairs}


def is_ready(url: str) -> bool:
    """Whether ``url`` answers with success."""
    try:
        return httpx.get(url, timeout=5.0).is_success
    except httpx.HTTPError:
        return False


def wait(parts: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Say of each part when it is ready, and now and then what is waited for."""
    waiting, began = dict(parts), time.monotonic()
    reminded = began
    while waiting:
        for name in [name for name, url in waiting.items() if is_ready(url)]:
            del waiting[name]
            say(f"{name} is ready ({time.monotonic() - began:.0f} s)")
        if waiting and time.monotonic() - reminded > _REMIND_EVERY_S:
            reminded = time.monotonic()
            say(f"waiting for {', '.join(waiting)}; build/logs tells more")
        time.sleep(_POLL_S if waiting else 0.0)
