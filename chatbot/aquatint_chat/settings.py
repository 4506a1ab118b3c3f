"""Settings of the chat backend; its address and access control are in ``aquatint.settings.ApiSettings``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

from aquatint_llm import EMBEDDED_MODEL
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from aquatint.contract.errors import InvalidRequest, from_validation

_SYSTEM_PROMPT = (
    "You are Aquatint, a friendly assistant that talks and draws pictures. When the user wants a picture, call the "
    "drawing tool with a description of what should be seen; to change a picture call it again with the whole new "
    "description. The user sees the picture at once: do not repeat its address. Answer briefly."
)


class Intent(StrEnum):
    """What decides between talking and generating an image."""

    AUTO = "auto"
    TOOLS = "tools"
    ROUTER = "router"


class ChatSettings(BaseSettings):
    """The language model, the MCP servers, the database and the limits of one turn."""

    model_config = SettingsConfigDict(
        env_prefix="AQUATINT_CHAT_", env_file=".env", extra="ignore", use_attribute_docstrings=True
    )

    llm_url: str = "http://127.0.0.1:8100/v1"
    """The language model: any endpoint with OpenAI's API."""
    llm_api_key: SecretStr = SecretStr("none")
    """The key it asks for."""
    llm_model: str | None = None
    """The model's name there; by default the first that it lists."""
    llm_timeout_s: float = Field(default=120.0, gt=0)
    """Longest silence of the language model, in seconds."""
    intent: Intent = Intent.AUTO
    """Who decides between talking and drawing: the model by its tools, our router, or whichever suits the model."""
    system_prompt: str = _SYSTEM_PROMPT
    """What the language model is told first."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(default=0.3, ge=0, le=2)
    """How freely it words its answers."""
    max_rounds: int = Field(default=4, ge=1)
    """Most rounds of tool calls in one turn."""
    history_messages: int = Field(default=20, ge=0)
    """Messages of the conversation that it reads."""
    history_characters: int = Field(default=10_000, ge=0)
    """Characters of them, at most."""
    mcp_url: str = "http://127.0.0.1:8080/mcp"
    """The MCP server whose tools it may call."""
    mcp_token: SecretStr | None = None
    """Bearer token for that server."""
    mcp_config: Path | None = None
    """A file ``{"mcpServers": {…}}`` of several servers, instead of the one."""
    draw_tool: str = "generate_image"
    """The tool that generates images."""
    tool_timeout_s: float = Field(default=600.0, gt=0)
    """Longest tool call, in seconds."""
    database_url: SecretStr = SecretStr("sqlite:///build/chat.db")
    """Where conversations and images are kept; ``postgresql://…`` too."""
    web: Path = Path(__file__).parent / "web"
    """The built page; without it, only the API is served."""

    def mcp_servers(self) -> dict[str, McpServer]:
        """Return the MCP servers by name: those of ``mcp_config``, or else ours. Raises ``InvalidRequest``."""
        if self.mcp_config is None:
            headers = {} if self.mcp_token is None else {"Authorization": f"Bearer {self.mcp_token.get_secret_value()}"}
            return {"aquatint": McpServer(url=self.mcp_url, headers=headers)}
        try:
            return McpConfig.model_validate(json.loads(self.mcp_config.read_text())).servers
        except OSError:
            raise InvalidRequest("AQUATINT_CHAT_MCP_CONFIG: the file cannot be read") from None
        except ValueError as error:
            why = from_validation(error) if isinstance(error, ValidationError) else "the file is not JSON"
            raise InvalidRequest(f"AQUATINT_CHAT_MCP_CONFIG: {why}") from None

    def intent_for(self, model: str) -> tuple[Intent, str]:
        """Return what decides for this language model, and why."""
        if self.intent is not Intent.AUTO:
            return self.intent, "set by AQUATINT_CHAT_INTENT"
        if model == EMBEDDED_MODEL:
            return Intent.ROUTER, f"{model} is too small to call tools"
        return Intent.TOOLS, f"{model} is assumed to call tools"


class McpServer(BaseModel):
    """An entry of ``mcpServers``: a URL with headers, or a command to run."""

    model_config = ConfigDict(extra="allow")

    url: str | None = None
    headers: dict[str, str] = {}
    command: str | None = None

    def transport(self) -> dict[str, Any]:
        """Return the entry as FastMCP's client expects it."""
        return self.model_dump(exclude_none=True)


class McpConfig(BaseModel):
    """The configuration file format shared by MCP clients: ``{"mcpServers": {"name": {…}}}``."""

    servers: dict[str, McpServer] = Field(alias="mcpServers", min_length=1)
