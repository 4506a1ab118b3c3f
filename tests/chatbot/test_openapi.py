"""The OpenAPI document of the chat's API: complete, and the one the page's types are generated from."""

from __future__ import annotations

import json
from pathlib import Path

from aquatint_chat import openapi
from aquatint_chat.app import create_app
from aquatint_chat.settings import ChatSettings
from aquatint_chat.toolbox import Toolbox
from pydantic import SecretStr

from aquatint.settings import ApiSettings
from tests.conftest import ROOT
from tests.openapi import undescribed

CHECKED_IN = ROOT / "chatbot" / "web" / "src" / "openapi.json"
EVENTS = ["start", "token", "tool_call", "progress", "image", "usage", "error", "done"]


def test_every_response_is_described(tmp_path: Path) -> None:
    settings = ChatSettings(database_url=SecretStr("sqlite://"), web=tmp_path)
    assert undescribed(create_app(settings, ApiSettings(), Toolbox({}, timeout_s=1))) == []


def test_every_event_is_described() -> None:
    schemas = openapi.document()["components"]["schemas"]
    assert list(schemas["TurnEvent"]["discriminator"]["mapping"]) == sorted(EVENTS)
    for reference in schemas["TurnEvent"]["discriminator"]["mapping"].values():
        assert "$ref" in schemas[reference.rpartition("/")[2]]["properties"]["data"]


def test_the_document_is_up_to_date() -> None:
    assert json.loads(CHECKED_IN.read_text()) == openapi.document(), "run: cd chatbot/web && npm run types"
