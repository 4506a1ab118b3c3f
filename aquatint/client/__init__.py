"""Python clients of an Aquatint server: blocking and asyncio, gRPC and HTTP, with retries, deadlines and streams.

with connect() as client:
    client.generate("a fox", seed=7).images[0].save("fox.png")
"""

from __future__ import annotations

from typing import Any

from aquatint.client._async import AsyncClient, AsyncGrpcTransport, AsyncHttpTransport, AsyncTransport
from aquatint.client._options import Options
from aquatint.client._sync import Client, GrpcTransport, HttpTransport, Transport
from aquatint.contract.generation import Event, Generation, Progress
from aquatint.contract.image import Image
from aquatint.settings import ClientSettings, read_settings

__all__ = [
    "AsyncClient",
    "AsyncTransport",
    "Client",
    "Event",
    "Generation",
    "Image",
    "Progress",
    "Transport",
    "connect",
    "connect_async",
]


def connect(**overrides: Any) -> Client:
    """Make a blocking client from ``ClientSettings``: ``AQUATINT_*`` variables, overridden by the arguments."""
    settings = read_settings(ClientSettings, **overrides)
    options = Options.from_settings(settings)
    transport: Transport = GrpcTransport(options) if settings.protocol == "grpc" else HttpTransport(options)
    return Client(transport, options)


def connect_async(**overrides: Any) -> AsyncClient:
    """Make an asyncio client from ``ClientSettings``; call it inside a running event loop."""
    settings = read_settings(ClientSettings, **overrides)
    options = Options.from_settings(settings)
    transport: AsyncTransport = (
        AsyncGrpcTransport(options) if settings.protocol == "grpc" else AsyncHttpTransport(options)
    )
    return AsyncClient(transport, options)
