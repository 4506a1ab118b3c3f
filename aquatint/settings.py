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

    model_config = SettingsConfigDict(
        env_prefix="AQUATINT_", env_file=".env", extra="ignore", use_attribute_docstrings=True
    )

    url: str = "127.0.0.1:8001"
    """Where Triton answers, ``HOST:PORT``: its gRPC port, or its HTTP port with ``AQUATINT_PROTOCOL=http``."""
    protocol: Literal["grpc", "http"] = "grpc"
    """How to talk to it."""
    model: str = "mini"
    """The model that is used when a request names none."""
    models: list[str] = []
    """Further models that may be named, as a JSON list."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Longest wait for a generation, in seconds."""
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """Longest silence within a stream, in seconds."""
    retries: int = Field(default=3, ge=0)
    """How often a call is repeated after a failure that may pass."""


class TextToImageSettings(BaseSettings):
    """Limits of a text-to-image model inside Triton."""

    model_config = SettingsConfigDict(env_prefix="AQUATINT_", extra="ignore", use_attribute_docstrings=True)

    max_running: int = Field(default=16, ge=1)
    """Requests of one model that are worked on at a time."""
    max_queued: int = Field(default=64, ge=0)
    """Requests that may wait beside them; the next one is ``Overloaded``."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """Longest life of a request, in seconds."""
    encoding_cache_bytes: int = Field(default=64 << 20, ge=0)
    """Memory for encoded prompts, so that a prompt is encoded once."""


class ServerSettings(BaseSettings):
    """The embedded Triton server."""

    model_config = SettingsConfigDict(
        env_prefix="AQUATINT_", env_file=".env", extra="ignore", use_attribute_docstrings=True
    )

    tritonserver: Path | None = None
    """The server's binary; by default the one in the PATH, then that of the nvidia-pytriton wheel."""
    host: str = "127.0.0.1"
    """The address that Triton listens on."""
    http_port: int = Field(default=8000, ge=0, le=65535)
    """Triton's HTTP port; 0 for any free one."""
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    """Triton's gRPC port; 0 for any free one."""
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    """The port of Triton's metrics; 0 for any free one."""
    model_control: bool = False
    """Open Triton's model control to everybody who reaches it, without the admin key."""
    admin_key: str | None = None
    """The key for model control, shared memory, logging and trace; by default the one in the file."""
    admin_key_file: Path = Path("build/admin-key")
    """Where that key is kept; made once."""
    ready_timeout_s: float = Field(default=120.0, gt=0)
    """Longest time that starting may take, in seconds."""
    probe_every_s: float = Field(default=5.0, gt=0)
    """Seconds between probes, each of which generates one step."""
    probe_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds after which a probe has failed."""


class StorageSettings(BaseSettings):
    """Where finished images are kept. S3 credentials come from AWS's own variables, which boto3 reads."""

    model_config = SettingsConfigDict(
        env_prefix="AQUATINT_", env_file=".env", extra="ignore", populate_by_name=True, use_attribute_docstrings=True
    )

    path: Path = Field(default=Path("build/images"), validation_alias="IMAGE_OUTPUT_PATH")
    """Folder of images; with a bucket, where they wait while it cannot be reached."""
    bucket: str | None = Field(default=None, validation_alias="AWS_S3_BUCKET")
    """Keep images in this bucket."""
    prefix: str = Field(default="", validation_alias="AQUATINT_S3_PREFIX")
    """Begin their keys with this."""
    endpoint_url: str | None = Field(
        default=None, validation_alias=AliasChoices("AWS_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3")
    )
    """Address of an S3 service other than AWS's."""
    presigned: bool = Field(default=False, validation_alias="AQUATINT_PRESIGNED_URLS")
    """Send those who fetch an image to a presigned URL of the bucket."""
    ttl_s: float = Field(default=7 * 24 * 3600.0, ge=0, validation_alias="AQUATINT_IMAGE_TTL_S")
    """Seconds that an image is kept; 0 for ever."""
    quota_bytes: int = Field(default=1 << 30, ge=0, validation_alias="AQUATINT_IMAGE_QUOTA_BYTES")
    """Bytes that one owner may keep, 0 for any; the oldest images leave first."""
    id_key: SecretStr | None = Field(default=None, validation_alias="AQUATINT_IMAGE_ID_KEY")
    """The secret behind image ids, made once and kept in the folder; set it where there are several replicas."""
    sweep_every_s: float = Field(default=300.0, gt=0, validation_alias="AQUATINT_IMAGE_SWEEP_EVERY_S")
    """Seconds between removals of what has expired."""


class ApiSettings(BaseSettings):
    """The HTTP server in front of an engine: address, who may call, and how much."""

    model_config = SettingsConfigDict(
        env_prefix="AQUATINT_", env_file=".env", extra="ignore", populate_by_name=True, use_attribute_docstrings=True
    )

    host: str = Field(default="127.0.0.1", validation_alias="AQUATINT_HOST")
    """The address to listen on; anything but loopback needs tokens or JWTs."""
    port: int = Field(default=8080, ge=0, le=65535, validation_alias="PORT")
    """The port to listen on; 0 for any free one. ``aquatint chat`` shares the name: set it for each program."""
    public_url: str | None = Field(default=None, validation_alias="PUBLIC_URL")
    """How callers reach this server, if not by its address."""
    tokens: dict[str, SecretStr] = {}
    """A JSON object of names and their bearer tokens; ``admin`` sees everybody's images."""
    jwks_url: str | None = None
    """Check JWTs with the keys found here, instead of tokens."""
    jwt_issuer: str | None = None
    """The issuer that a JWT must name."""
    jwt_audience: str | None = None
    """The audience that a JWT must name."""
    allow_anonymous: bool = False
    """Serve strangers without tokens off loopback."""
    allowed_hosts: list[str] = []
    """Further host names that this server answers to, as a JSON list."""
    cors_origins: list[str] = []
    """Origins of web pages that may call this server, as a JSON list."""
    rate_limit: str = "120/minute"
    """Requests of one caller."""
    max_body_bytes: int = Field(default=1 << 20, gt=0)
    """Largest body of a request."""

    @property
    def base_url(self) -> str:
        """The address where callers reach this server."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def hosts(self) -> list[str]:
        """The host names that this server answers to."""
        return [*self.allowed_hosts, urlsplit(self.base_url).hostname or ""]
