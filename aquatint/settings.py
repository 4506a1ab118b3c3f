"""Settings from the environment (``AQUATINT_*``) or a ``.env`` file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from aquatint.contract.errors import InvalidRequest, from_validation

S = TypeVar("S", bound=BaseSettings)


def user_data_folder() -> Path:
    """Return our folder among the user's data (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "aquatint"


def read_settings(kind: type[S], **overrides: Any) -> S:
    """Read settings from the environment. Raises ``InvalidRequest`` naming the variable that cannot be used."""
    try:
        return kind(**overrides)
    except ValidationError as error:
        raise InvalidRequest(f"settings: {from_validation(error)}") from None
    except SettingsError as error:
        # Its text names the field and the source; only its cause holds the value, which may be a secret.
        raise InvalidRequest(f"settings: {error}; lists and objects are written as JSON") from None


class ClientSettings(BaseSettings):
    """How clients reach Triton."""

    model_config = SettingsConfigDict(env_prefix="AQUATINT_", env_file=".env", extra="ignore")

    url: str = "127.0.0.1:8001"
    protocol: Literal["grpc", "http"] = "grpc"
    model: str = "mini"
    models: list[str] = []
    timeout_s: float = Field(default=300.0, gt=0)
    stall_timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=3, ge=0)


class TextToImageSettings(BaseSettings):
    """Limits of a text-to-image model inside Triton."""

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
    admin_key_file: Path = Path("build/admin-key")
    ready_timeout_s: float = Field(default=120.0, gt=0)
    probe_every_s: float = Field(default=5.0, gt=0)
    probe_timeout_s: float = Field(default=30.0, gt=0)


class StorageSettings(BaseSettings):
    """Where finished images are kept. S3 credentials come from AWS's own variables, which boto3 reads."""

    model_config = SettingsConfigDict(env_prefix="AQUATINT_", env_file=".env", extra="ignore", populate_by_name=True)

    path: Path = Field(default=Path("build/images"), validation_alias="IMAGE_OUTPUT_PATH")
    bucket: str | None = Field(default=None, validation_alias="AWS_S3_BUCKET")
    prefix: str = Field(default="", validation_alias="AQUATINT_S3_PREFIX")
    endpoint_url: str | None = Field(
        default=None, validation_alias=AliasChoices("AWS_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3")
    )
    presigned: bool = Field(default=False, validation_alias="AQUATINT_PRESIGNED_URLS")
    ttl_s: float = Field(default=7 * 24 * 3600.0, ge=0, validation_alias="AQUATINT_IMAGE_TTL_S")
    quota_bytes: int = Field(default=1 << 30, ge=0, validation_alias="AQUATINT_IMAGE_QUOTA_BYTES")
    id_key: SecretStr | None = Field(default=None, validation_alias="AQUATINT_IMAGE_ID_KEY")
    sweep_every_s: float = Field(default=300.0, gt=0, validation_alias="AQUATINT_IMAGE_SWEEP_EVERY_S")


class ApiSettings(BaseSettings):
    """The HTTP server in front of an engine: address, who may call, and how much."""

    model_config = SettingsConfigDict(env_prefix="AQUATINT_", env_file=".env", extra="ignore", populate_by_name=True)

    host: str = Field(default="127.0.0.1", validation_alias="AQUATINT_HOST")
    port: int = Field(default=8080, ge=0, le=65535, validation_alias="PORT")
    public_url: str | None = Field(default=None, validation_alias="PUBLIC_URL")
    tokens: dict[str, SecretStr] = {}
    jwks_url: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    allow_anonymous: bool = False
    allowed_hosts: list[str] = []
    cors_origins: list[str] = []
    rate_limit: str = "120/minute"
    max_body_bytes: int = Field(default=1 << 20, gt=0)

    @property
    def base_url(self) -> str:
        """The address where callers reach this server."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def hosts(self) -> list[str]:
        """The host names that this server answers to."""
        return [*self.allowed_hosts, urlsplit(self.base_url).hostname or ""]
