"""Where ``aquatint run`` keeps its files, and which ports its programs use."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aquatint.cli.components import Service
from aquatint.cli.run.programs import Port
from aquatint.contract.errors import EngineUnavailable
from aquatint.settings import ServerSettings, user_data_folder

_NEEDED_BYTES = 1 << 30


class RunSettings(BaseSettings):
    """Ports of the programs that do not define one in their own settings."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", populate_by_name=True, use_attribute_docstrings=True
    )

    mcp_port: int = Field(default=8080, ge=1, le=65535, validation_alias="MCP_PORT")
    """Port of the MCP server that ``aquatint run`` starts."""
    chat_port: int = Field(default=8090, ge=1, le=65535, validation_alias="CHAT_PORT")
    """Port of the chat page that ``aquatint run`` starts."""


def default_home() -> Path:
    """Return ``AQUATINT_HOME``, or our folder among the user's data."""
    home = os.environ.get("AQUATINT_HOME")
    return Path(home) if home else user_data_folder()


def ports(server: ServerSettings, run: RunSettings, llm: Service | None) -> Iterator[Port]:
    """List every port that the programs will listen on."""
    yield Port("Triton over HTTP", "AQUATINT_HTTP_PORT", server.http_port)
    yield Port("Triton over gRPC", "AQUATINT_GRPC_PORT", server.grpc_port)
    yield Port("Triton's metrics", "AQUATINT_METRICS_PORT", server.metrics_port)
    yield Port("the MCP server", "MCP_PORT", run.mcp_port)
    yield Port("the chat page", "CHAT_PORT", run.chat_port)
    if llm is not None:
        yield llm.port


def check_ports(wanted: Iterator[Port]) -> None:
    """Raise ``EngineUnavailable`` naming every loopback port that another program is using."""
    taken = [port for port in wanted if port.number and not _is_free(port.number)]
    if taken:
        lines = [f"port {port.number}, for {port.owner}, is taken: set {port.variable}" for port in taken]
        raise EngineUnavailable("; ".join(lines) + ", or end the program that uses it")


def check_disk(folder: Path) -> None:
    """Raise ``EngineUnavailable`` if there is not enough disk space to work in."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise EngineUnavailable(f"{free >> 20} MiB of disk are free for {folder}, and 1 GiB is needed")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        # Connections lingering from a server that has just stopped do not make the port taken.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
