"""An OTLP/HTTP collector that remembers the spans it gets."""

from __future__ import annotations

import base64
import gzip
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def _decoded(body: bytes, media_type: str) -> ExportTraceServiceRequest:
    """Decode OTLP's two forms; in its JSON, ids are hexadecimal where Protobuf's JSON has base64."""
    if "json" not in media_type:
        return ExportTraceServiceRequest.FromString(body)
    text = re.sub(
        rb'"(traceId|spanId|parentSpanId)":"([0-9a-f]*)"',
        lambda m: b'"%s":"%s"' % (m[1], base64.b64encode(bytes.fromhex(m[2].decode()))),
        re.sub(rb'"\s*:\s*"', b'":"', body),
    )
    return Parse(text, ExportTraceServiceRequest(), ignore_unknown_fields=True)


class Collector:
    """Listens on a free port of loopback while its block runs."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, bytes]] = []
        collected = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                for resource in _decoded(body, self.headers["content-type"]).resource_spans:
                    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
                    collected.extend(
                        (attributes.get("service.name", ""), span.name, span.trace_id)
                        for scope in resource.scope_spans
                        for span in scope.spans
                    )
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def services_of(self, name: str) -> set[str]:
        """Return the services that sent spans of this name."""
        return {service for service, span, _ in self.spans if span == name}

    def traces_of(self, name: str) -> set[bytes]:
        """Return the traces that have spans of this name."""
        return {trace for _, span, trace in self.spans if span == name}
