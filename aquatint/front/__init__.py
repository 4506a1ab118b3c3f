"""The text-to-image fronts inside Triton. Only importable inside a Triton Python backend process.

``TritonPythonModel`` is the front over exported components: model repositories import it from here.
"""

from aquatint.front.components import TritonPythonModel

__all__ = ["TritonPythonModel"]
