"""The unary front of a model whose stream front draws by itself."""

from aquatint.front.relay import TritonPythonModel

__all__ = ["TritonPythonModel"]
