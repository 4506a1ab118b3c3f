"""Settings from the environment (``AQUATINT_*``) or a ``.env`` file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ClientSettings(BaseSettings):
    """How clients reach Triton."""

    model_config = SettingsConfigDict(env_prefix="AQUATINT_", env_file=".env", extra="ignore")

    url: str = "127.0.0.1:8001"
    protocol: Literal["grpc", "http"] = "grpc"
    model: str = "mini"
    timeout_s: float = Field(default=300.0, gt=0)
    stall_timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=3, ge=0)


class FrontSettings(BaseSettings):
    """Limits of a text-to-image front inside Triton."""

    model_config = SettingsConfigDict(env_prefix="AQUATINT_", extra="ignore")

    max_running: int = Field(default=16, ge=1)
    max_queued: int = Field(default=64, ge=0)
    request_timeout_s: float = Field(default=600.0, gt=0)
    encoding_cache_bytes: int = Field(default=64 << 20, ge=0)


class ServerSettings(BaseSettings):
    """The embedded Triton server."""

    model_config = SettingsConfigDict(env_prefix="AQUATINT_", env_file=".env", extra="ignore")

    tritonserver: Path | None = None
    host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=0, le=65535)
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    model_control: bool = False
    admin_key: str | None = None
    ready_timeout_s: float = Field(default=120.0, gt=0)
    probe_every_s: float = Field(default=5.0, gt=0)
    probe_timeout_s: float = Field(default=30.0, gt=0)
