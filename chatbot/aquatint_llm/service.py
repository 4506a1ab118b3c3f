"""The language model as ``aquatint run`` keeps it running and ``aquatint doctor`` examines it."""

from __future__ import annotations

import sys
from pathlib import Path

from aquatint.cli.components import Finding, Service
from aquatint.cli.run.programs import Port, Program
from aquatint.settings import read_settings
from aquatint_llm.environment import is_installed
from aquatint_llm.serve import EMBEDDED_MODEL, LlmSettings


class LanguageModel(Service):
    """The entry point ``llm`` of ``aquatint.services``."""

    def __init__(self) -> None:
        self._settings = read_settings(LlmSettings)

    @property
    def port(self) -> Port:
        """The port of OpenAI's API."""
        return Port("the language model", "AQUATINT_LLM_PORT", self._settings.port)

    def program(self, *, torch: str, pip_options: str) -> Program:
        """Return the command that installs and serves the language model."""
        command = [str(Path(sys.executable).parent / "aquatint"), "llm", "serve", "--install"]
        options = ["--torch", torch, "--pip-options", pip_options]
        # Whatever stops it in the first minutes (most likely a full disk) would stop it again.
        return Program("llm", [*command, *options], starts_in_s=300, stops_in_s=20)

    def examine(self) -> Finding:
        """Return whether vLLM and the model are installed."""
        home, found = self._settings.home, is_installed(self._settings.home)
        return Finding(
            "language model",
            ok=found,
            detail=f"{EMBEDDED_MODEL} on vLLM in {home}" if found else f"not in {home}",
            hint="aquatint llm install, or set AQUATINT_CHAT_LLM_URL",
        )
