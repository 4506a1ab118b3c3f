"""Pass the caller's trace on to Triton, which continues it (W3C Trace Context)."""

from __future__ import annotations

from opentelemetry import propagate


def trace_headers() -> dict[str, str]:
    """Return the current span's ``traceparent``, or nothing where tracing is off."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
