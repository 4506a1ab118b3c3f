"""Whether a server says that it is ready."""

from __future__ import annotations

import httpx


def is_ready(url: str) -> bool:
    """Whether ``url`` answers with success."""
    try:
        return httpx.get(url, timeout=5.0).is_success
    except httpx.HTTPError:
        return False
