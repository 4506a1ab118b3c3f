"""Conversations in a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aquatint_chat.store import ChatStore, Image, Message

from aquatint.contract.errors import ImageNotFound, StoreUnavailable

pytestmark = pytest.mark.e2e


@pytest.fixture
def postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # Read while the package is imported; it warns without.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    from pgserver.postgres_server import get_server  # noqa: PLC0415

    with get_server(tmp_path / "data") as server:
        yield server


async def test_a_conversation(postgres: Any) -> None:
    store = ChatStore(postgres.get_uri())
    await store.open()
    conversation, _ = await store.begin_turn("alice", "a red fox")
    images = [
        Image(owner="alice", conversation_id=conversation.id, prompt="A red fox", seed=2**63 - 1, **stored)
        for stored in ({"media_type": "image/png", "data": bytes(range(256)), "parameters": {"width": 64}},) * 3
    ]
    await store.end_turn(conversation.id, Message(role="assistant", content="Here", images=images))
    await asyncio.gather(*(store.begin_turn("bob", f"m{index}") for index in range(20)))

    found = await store.conversation(conversation.id, "alice")
    assert [message.content for message in found.messages] == ["a red fox", "Here"]
    assert found.messages[1].images[0].seed == 2**63 - 1
    assert found.created_at.tzinfo is not None
    page = await store.images("alice", query="FOX red", limit=2)
    assert len(page.images) == 2
    assert (await store.image(page.images[0].id)).data == bytes(range(256))
    assert [each.id for each in await store.conversations("alice", query="red")] == [conversation.id]
    assert len(await store.conversations(None)) == 21

    await store.delete_image(page.images[0].id, "alice")
    await store.delete(conversation.id, "alice")
    with pytest.raises(ImageNotFound):
        await store.image(page.images[1].id)
    await store.close()


async def test_a_server_that_stops(postgres: Any) -> None:
    store = ChatStore(postgres.get_uri())
    await store.open()
    postgres.cleanup()
    with pytest.raises(StoreUnavailable):
        await store.check()
    await store.close()
