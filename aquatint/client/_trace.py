"""The caller's trace, handed on to Triton, which continues it (W3C Trace Context)."""

from __future__ import annotations

from opentelemetry import propagate


def trace_headers() -> dict[str, str]:
    """``traceparent`` of the current span; empty where nothing is traced."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
