"""The unary front: one answer per request (``infer``, ``generate``)."""

from aquatint.front import TritonPythonModel

__all__ = ["TritonPythonModel"]
