"""The decoupled front: progress, previews and the finished pictures as a stream of answers."""

from aquatint.front import TritonPythonModel

__all__ = ["TritonPythonModel"]
