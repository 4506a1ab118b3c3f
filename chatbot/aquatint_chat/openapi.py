"""``python -m aquatint_chat.openapi FILE``: write the OpenAPI document, from which the page's types are generated."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from aquatint.settings import ApiSettings
from aquatint_chat.app import create_app
from aquatint_chat.settings import ChatSettings
from aquatint_chat.toolbox import Toolbox


def document() -> dict[str, Any]:
    """Make the OpenAPI document of the chat's API, without starting anything."""
    settings = ChatSettings(database_url=SecretStr("sqlite://"))
    return create_app(settings, ApiSettings(), Toolbox({}, settings.tool_timeout_s)).openapi()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(document(), indent=2) + "\n")
