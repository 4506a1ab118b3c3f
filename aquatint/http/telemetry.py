"""OpenTelemetry traces, if the environment names a collector. FastMCP adds spans of its own."""

from __future__ import annotations

import os

from fastapi import FastAPI

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def trace_if_configured(app: FastAPI, service: str) -> None:
    """Send a span for every request of ``app`` over OTLP/HTTP, if one of OpenTelemetry's own variables is set."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    # Importing takes half a second, and few need it.
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    # One span per request: one per message sent would make thousands. MCP clients name their trace inside the message,
    # where FastMCP only looks if no span has begun.
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"], excluded_urls="health,metrics,mcp")
