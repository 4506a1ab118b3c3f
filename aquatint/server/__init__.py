"""The embedded Triton server: find a ``tritonserver``, lay out its backends, run it on loopback and supervise it."""

from aquatint.server.locate import Installation, locate
from aquatint.server.process import TritonServer

__all__ = ["Installation", "TritonServer", "locate"]
