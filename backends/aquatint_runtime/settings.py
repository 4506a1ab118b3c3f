"""Settings of the runtime, named as in the demo that this grew from."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RuntimeSettings(BaseSettings):
    """The model, its name, and how many requests may wait for the one inference thread."""

    model_config = SettingsConfigDict(
        env_prefix="AQUATINT_", extra="ignore", populate_by_name=True, use_attribute_docstrings=True
    )

    model_id: str = Field(default="/mnt/models", validation_alias="MODEL_ID")
    """The pipeline: a folder, a hub id, ``hf://…`` or ``s3://…``."""
    model_name: str = Field(default="model", validation_alias="MODEL_NAME")
    """The name it is served under."""
    max_queued: int = Field(default=16, ge=0)
    """Requests that may wait for the one inference thread."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """Longest life of a request, in seconds."""
    max_body_bytes: int = Field(default=1 << 20, gt=0)
    """Largest body of a request."""
