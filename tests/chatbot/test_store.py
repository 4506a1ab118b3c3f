"""What the database promises when things go wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aquatint_chat.errors import ConversationNotFound
from aquatint_chat.store import ChatStore, Image, Message

from aquatint.contract.errors import StoreUnavailable


@pytest.fixture
async def store(tmp_path: Path) -> ChatStore:
    opened = ChatStore(f"sqlite:///{tmp_path / 'deep' / 'chat.db'}")
    await opened.open()
    return opened


def answer(*pictures: bytes) -> Message:
    images = [
        Image(owner="o", conversation_id="c", prompt="p", seed=1, media_type="image/png", data=data)
        for data in pictures
    ]
    return Message(role="assistant", content="x", images=images)


async def test_it_survives_reopening(store: ChatStore, tmp_path: Path) -> None:
    conversation, _ = await store.begin_turn("o", "  hello\n world ")
    await store.end_turn(conversation.id, answer(b"1", b"2"))
    await store.close()
    again = ChatStore(f"sqlite:///{tmp_path / 'deep' / 'chat.db'}")
    await again.open()
    found = await again.conversation(conversation.id, "o")
    assert found.title == "hello world"
    assert [image.seed for image in found.messages[1].images] == [1, 1]
    assert (await again.image(found.messages[1].images[1].id)).data == b"2"
    await again.close()


async def test_edit_drops_what_came_after_with_its_images(store: ChatStore) -> None:
    conversation, first = await store.begin_turn("o", "one")
    await store.end_turn(conversation.id, answer(b"1"))
    await store.begin_turn("o", "two", conversation_id=conversation.id)
    await store.end_turn(conversation.id, answer(b"2"))
    await store.begin_turn("o", "uno", conversation_id=conversation.id, replace_from=first.id)
    found = await store.conversation(conversation.id, "o")
    assert [message.content for message in found.messages] == ["uno"]
    assert found.title == "uno"
    assert (await store.images("o")).images == []
    await store.close()


async def test_an_answer_to_a_deleted_conversation(store: ChatStore) -> None:
    conversation, _ = await store.begin_turn("o", "one")
    await store.delete(conversation.id, "o")
    with pytest.raises(ConversationNotFound):
        await store.end_turn(conversation.id, answer(b"1"))
    assert (await store.images(None)).images == []
    await store.close()


async def test_many_writers(store: ChatStore) -> None:
    await asyncio.gather(*(store.begin_turn("o", f"m{index}") for index in range(30)))
    assert len(await store.conversations("o")) == 30
    await store.close()


async def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_bytes(b"this is no database at all" * 100)
    store = ChatStore(f"sqlite:///{tmp_path / 'chat.db'}")
    with pytest.raises(StoreUnavailable):
        await store.open()
    await store.close()
    away = ChatStore("postgresql://user:password@127.0.0.1:9/chat")
    with pytest.raises(StoreUnavailable) as error:
        await away.open()
    assert "password" not in str(error.value)
    await away.close()
