"""The command that starts vLLM on a laptop: one thread, little memory, with tool calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aquatint.contract.errors import EngineUnavailable
from aquatint.settings import user_data_folder
from aquatint_llm.environment import is_installed, model_folder, python_of

EMBEDDED_MODEL = "smollm2-135m-instruct"
_HERE = Path(__file__).parent


def _default_home() -> Path:
    """Return ``llm`` inside our own virtual environment, or else in our folder for user data."""
    return (Path(sys.prefix) if sys.prefix != sys.base_prefix else user_data_folder()) / "llm"


class LlmSettings(BaseSettings):
    """Settings of the embedded language model's server."""

    model_config = SettingsConfigDict(
        env_prefix="AQUATINT_LLM_", env_file=".env", extra="ignore", use_attribute_docstrings=True
    )

    home: Path = Field(default_factory=_default_home)
    """Where vLLM and the model are installed; by default ``llm`` in the virtual environment."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = Field(default=8100, ge=1, le=65535)
    """The port to listen on."""
    threads: int = Field(default=1, ge=1)
    """Threads that compute."""
    max_model_len: int = Field(default=4096, ge=512)
    """Longest conversation, in tokens."""
    max_num_seqs: int = Field(default=8, ge=1)
    """Conversations at a time."""
    kv_cache_bytes: int = Field(default=256 << 20, ge=64 << 20)
    """Memory of the KV cache."""


def command(settings: LlmSettings) -> tuple[list[str], dict[str, str]]:
    """Return vLLM's command line and environment. Raises ``EngineUnavailable`` if it is not installed."""
    if not is_installed(settings.home):
        raise EngineUnavailable("vLLM is not installed here: aquatint llm install")
    # Absolute, but not resolved: an environment's Python is a link to the system's.
    home = settings.home.absolute()
    arguments = {
        "--served-model-name": EMBEDDED_MODEL,
        "--host": settings.host,
        "--port": settings.port,
        # On a CPU, bfloat16 is slower to run and compilation slower to start.
        "--dtype": "float32",
        "--max-model-len": settings.max_model_len,
        "--max-num-seqs": settings.max_num_seqs,
        "--kv-cache-memory-bytes": settings.kv_cache_bytes,
        "--tool-call-parser": "hermes",
        "--tool-strict-level": "parameter",
        "--uvicorn-log-level": "warning",
        "--chat-template": _HERE / "chat_template.jinja",
    }
    switches = ["--enforce-eager", "--enable-auto-tool-choice", "--disable-uvicorn-access-log"]
    line = [str(python_of(home)), str(_HERE / "launch.py"), "serve", str(model_folder(home)), *switches]
    for name, value in arguments.items():
        line += [name, str(value)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(settings.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    return line, environment
