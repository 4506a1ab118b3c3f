"""Settings of the runtime, named as in the demo that this grew from."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RuntimeSettings(BaseSettings):
    """The model, its name, and how many requests may wait for the one inference thread."""

    model_config = SettingsConfigDict(env_prefix="AQUATINT_", extra="ignore", populate_by_name=True)

    model_id: str = Field(default="/mnt/models", validation_alias="MODEL_ID")
    model_name: str = Field(default="model", validation_alias="MODEL_NAME")
    max_queued: int = Field(default=16, ge=0)
    request_timeout_s: float = Field(default=600.0, gt=0)
    max_body_bytes: int = Field(default=1 << 20, gt=0)
