"""The embedded language model: SmolLM2-135M-Instruct on a real vLLM, in an environment of its own.

Any server with OpenAI's API can take its place: nothing outside this package knows that it is vLLM.
"""

from aquatint_llm.environment import install, is_installed
from aquatint_llm.serve import EMBEDDED_MODEL, LlmSettings, command

__all__ = ["EMBEDDED_MODEL", "LlmSettings", "command", "install", "is_installed"]
