"""The unary front: one answer per request (``infer``, ``generate``)."""

from aquatint.front.components import TritonPythonModel

__all__ = ["TritonPythonModel"]
