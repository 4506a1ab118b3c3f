"""The embedded language model: SmolLM2-135M-Instruct on a real vLLM, in an environment of its own.

Anything that speaks OpenAI's API takes its place; nothing else here knows that it is vLLM.
"""

from aquatint_llm.environment import install, is_installed
from aquatint_llm.serve import EMBEDDED_MODEL, LlmSettings, command

__all__ = ["EMBEDDED_MODEL", "LlmSettings", "command", "install", "is_installed"]
