"""Python clients of an Aquatint server: blocking and asyncio, gRPC and HTTP, with retries, deadlines and streams.

with connect() as client:
    generation = client.generate(GenerationRequest(prompt="a fox"))
"""

from __future__ import annotations

from typing import Any

from aquatint.client._async import AsyncClient, AsyncGrpcTransport, AsyncHttpTransport, AsyncTransport
from aquatint.client._options import Options
from aquatint.client._sync import Client, GrpcTransport, HttpTransport, Transport
from aquatint.generation import GeneratedImage, Generation, Step, StreamEvent
from aquatint.settings import ClientSettings, read_settings

__all__ = [
    "AsyncClient",
    "AsyncTransport",
    "Client",
    "GeneratedImage",
    "Generation",
    "Step",
    "StreamEvent",
    "Transport",
    "connect",
    "connect_async",
]


def connect(**overrides: Any) -> Client:
    """A blocking client by ``ClientSettings``: ``AQUATINT_*`` variables, overridden by the arguments."""
    settings = read_settings(ClientSettings, **overrides)
    options = Options.from_settings(settings)
    transport: Transport = GrpcTransport(options) if settings.protocol == "grpc" else HttpTransport(options)
    return Client(transport, options)


def connect_async(**overrides: Any) -> AsyncClient:
    """An asyncio client by ``ClientSettings``; call it inside a running event loop."""
    settings = read_settings(ClientSettings, **overrides)
    options = Options.from_settings(settings)
    transport: AsyncTransport = (
        AsyncGrpcTransport(options) if settings.protocol == "grpc" else AsyncHttpTransport(options)
    )
    return AsyncClient(transport, options)
