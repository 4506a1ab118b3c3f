"""Conversations and images over HTTP, who may see them, and the page itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aquatint_chat.testing import FakeLlm, Reply
from pydantic import SecretStr

from aquatint.settings import ApiSettings
from tests.chatbot.conftest import Chat, named

TOKENS = {"alice": "a-token", "bob": "b-token"}


async def begun(chat: Chat, content: str = "/imagine a fox") -> dict[str, Any]:
    """The conversation that a first message begins."""
    return dict((await chat.say(content))[0][1]["conversation"])


async def test_rename_search_delete(chat: Chat) -> None:
    fox, cat = await begun(chat), await begun(chat, "/imagine a cat")
    listed = (await chat.http.get("/api/v1/conversations")).json()["conversations"]
    assert listed[1]["created_at"] == fox["created_at"]
    assert [each["id"] for each in listed] == [cat["id"], fox["id"]]
    renamed = await chat.http.patch(f"/api/v1/conversations/{fox['id']}", json={"title": " Reynard "})
    assert renamed.json()["title"] == "Reynard"
    found = (await chat.http.get("/api/v1/conversations", params={"query": "reyn"})).json()["conversations"]
    assert [each["id"] for each in found] == [fox["id"]]
    in_messages = (await chat.http.get("/api/v1/conversations", params={"query": "a fox"})).json()["conversations"]
    assert [each["id"] for each in in_messages] == [fox["id"]]
    for wrong in ({"title": ""}, {"title": " "}, {"title": "x" * 81}, {}):
        assert (await chat.http.patch(f"/api/v1/conversations/{fox['id']}", json=wrong)).status_code == 400
    (picture,) = (await chat.conversation(fox["id"]))["messages"][1]["images"]
    assert (await chat.http.delete(f"/api/v1/conversations/{fox['id']}")).status_code == 204
    assert (await chat.http.get(picture["url"])).status_code == 404
    assert (await chat.http.get(f"/api/v1/conversations/{fox['id']}")).status_code == 404


async def test_export(chat: Chat) -> None:
    fox = await begun(chat)
    answer = await chat.http.get(f"/api/v1/conversations/{fox['id']}/export")
    assert "attachment" in answer.headers["content-disposition"]
    assert json.loads(answer.content)["messages"][1]["images"][0]["prompt"] == "a fox"
    markdown = await chat.http.get(f"/api/v1/conversations/{fox['id']}/export", params={"format": "markdown"})
    assert "**You:** /imagine a fox" in markdown.text
    assert (await chat.http.get(f"/api/v1/conversations/{fox['id']}/export?format=pdf")).status_code == 400


async def test_gallery(chat: Chat) -> None:
    await chat.say("/imagine a red fox", image={"num_images": 3, "seed": 1})
    await chat.say("/imagine a cat")
    first = (await chat.http.get("/api/v1/images", params={"limit": 3})).json()
    assert [image["prompt"] for image in first["images"]] == ["a cat", "a red fox", "a red fox"]
    rest = (await chat.http.get("/api/v1/images", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [(image["seed"], rest["next_cursor"]) for image in rest["images"]] == [(1, None)]
    words = (await chat.http.get("/api/v1/images", params={"query": "FOX red"})).json()["images"]
    assert [image["seed"] for image in words] == [3, 2, 1]
    assert (await chat.http.get("/api/v1/images", params={"query": "100%"})).json()["images"] == []
    url = words[0]["url"]
    assert (await chat.http.delete(url)).status_code == 204
    assert (await chat.http.delete(url)).status_code == 404
    assert (await chat.http.get(url)).json()["error"]["code"] == "ImageNotFound"


class TestTokens:
    """With tokens everybody has conversations of their own."""

    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        tokens = {name: SecretStr(token) for name, token in TOKENS.items()}
        return ApiSettings(tokens=tokens, rate_limit="3/minute")

    async def test_strangers_and_neighbours(self, chat: Chat) -> None:
        assert (await chat.http.get("/api/v1/conversations")).status_code == 401
        assert (await chat.http.post("/api/v1/chat/completions", json={"content": "x"})).status_code == 401
        chat.http.headers["Authorization"] = "Bearer a-token"
        fox = await begun(chat)
        url = named(await chat.say("/imagine a cat"), "image")[0]["image"]["url"]
        chat.http.headers["Authorization"] = "Bearer b-token"
        assert (await chat.http.get("/api/v1/conversations")).json()["conversations"] == []
        assert (await chat.http.get("/api/v1/images")).json()["images"] == []
        for call in (chat.http.get, chat.http.delete):
            assert (await call(f"/api/v1/conversations/{fox['id']}")).status_code == 404
        assert (await chat.http.delete(url)).status_code == 404
        ((_, error),) = await chat.say("hello", conversation_id=fox["id"])
        assert error["code"] == "ConversationNotFound"
        # A picture's address cannot be guessed, and opens without a header, as <img> needs it.
        del chat.http.headers["Authorization"]
        assert (await chat.http.get(url)).status_code == 200

    async def test_rate_limit(self, chat: Chat) -> None:
        chat.http.headers["Authorization"] = "Bearer a-token"
        for _ in range(3):
            await chat.say("/imagine a fox")
        refused = await chat.http.post("/api/v1/chat/completions", json={"content": "x"})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1


async def test_no_secret_reaches_the_browser(chat: Chat, llm: FakeLlm) -> None:
    llm.replies = [Reply("hi")]
    await chat.say("hello")
    for path in ("/api/v1/status", "/health/ready", "/metrics", "/api/v1/conversations"):
        assert "top-secret" not in (await chat.http.get(path)).text


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A page of one file, and a secret."""
    web = tmp_path / "web"
    web.mkdir()
    (web / "index.html").write_text("<!doctype html><title>Aquatint</title>")
    return {"web": web, "llm_api_key": SecretStr("top-secret")}


async def test_the_page_and_its_guards(chat: Chat) -> None:
    page = await chat.http.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert (await chat.http.get("/", headers={"Host": "evil.example"})).status_code == 403
    assert (await chat.http.get("/api/v1/status", headers={"Origin": "https://evil.example"})).status_code == 403
    assert (await chat.http.get("/../settings.py")).status_code == 404
    big = {"content": "x" * (2 << 20)}
    assert (await chat.http.post("/api/v1/chat/completions", json=big)).status_code == 413


async def test_metrics(chat: Chat) -> None:
    await chat.say("/imagine a fox")
    text = (await chat.http.get("/metrics")).text
    assert 'aquatint_chat_turns_total{outcome="complete"}' in text
    assert 'aquatint_chat_tool_seconds_count{tool="generate_image"}' in text
