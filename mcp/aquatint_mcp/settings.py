"""Settings of the MCP server itself; those shared with other servers are in ``aquatint.settings``."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class McpSettings(BaseSettings):
    """What tools answer with, and the server that generates if the seed demo's variables name one."""

    model_config = SettingsConfigDict(
        env_prefix="AQUATINT_MCP_",
        env_file=".env",
        extra="ignore",
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    inline_bytes: int = Field(default=256 << 10, ge=0)
    """Largest image inside a tool's answer; 0 for none, just its address."""
    preview_every: int = Field(default=4, ge=1)
    """Steps between previews in progress notifications."""
    runtime_url: str | None = Field(default=None, validation_alias="DIFFUSERS_RUNTIME_URL")
    """Generate with this runtime over HTTP instead of ``AQUATINT_URL``."""
    runtime_model: str | None = Field(default=None, validation_alias="DIFFUSERS_MODEL_ID")
    """The runtime's model."""

    def engine(self) -> dict[str, Any]:
        """Return overrides for ``connect_async``: the diffusers runtime over HTTP if it is named, else none."""
        overrides: dict[str, Any] = {}
        if self.runtime_url is not None:
            parts = urlsplit(self.runtime_url if "//" in self.runtime_url else f"//{self.runtime_url}")
            overrides |= {"url": parts.netloc, "protocol": "http"}
        if self.runtime_model is not None:
            overrides["model"] = self.runtime_model
        return overrides
