"""Aquatint: Stable Diffusion 3.5 on NVIDIA Triton. This package is the core; it imports no ML framework.

from aquatint import connect

with connect() as client:
    client.generate("a fox", seed=7).images[0].save("fox.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aquatint._version import __version__

if TYPE_CHECKING:
    from aquatint.client import AsyncClient, Client, connect, connect_async
    from aquatint.contract import errors
    from aquatint.contract.errors import AquatintError
    from aquatint.contract.generation import Event, Generation, Progress
    from aquatint.contract.image import Image
    from aquatint.contract.model_info import ModelInfo
    from aquatint.contract.request import GenerationRequest

__all__ = [
    "AquatintError",
    "AsyncClient",
    "Client",
    "Event",
    "Generation",
    "GenerationRequest",
    "Image",
    "ModelInfo",
    "Progress",
    "__version__",
    "connect",
    "connect_async",
    "errors",
]

# Imported when first asked for: the clients bring tritonclient.grpc, which cannot live in one process with kserve, and
# every module of this package imports this one.
_HOMES = {
    "AquatintError": "aquatint.contract.errors",
    "AsyncClient": "aquatint.client",
    "Client": "aquatint.client",
    "Event": "aquatint.contract.generation",
    "Generation": "aquatint.contract.generation",
    "GenerationRequest": "aquatint.contract.request",
    "Image": "aquatint.contract.image",
    "ModelInfo": "aquatint.contract.model_info",
    "Progress": "aquatint.contract.generation",
    "connect": "aquatint.client",
    "connect_async": "aquatint.client",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("aquatint.contract.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
