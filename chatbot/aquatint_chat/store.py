"""Conversations, their messages and images in one database: SQLite in a file, or PostgreSQL by its URL.

Images are rows too: deleting a conversation deletes them, and a copy of the database is a copy of everything.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, delete, event, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, defer, mapped_column, relationship, selectinload
from sqlalchemy.types import DateTime

from aquatint.contract.errors import ImageNotFound, InvalidRequest, StoreUnavailable
from aquatint_chat.errors import ConversationNotFound

_log = logging.getLogger("aquatint.chat")

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
TITLE_CHARACTERS = 80


def _now() -> datetime:
    return datetime.now(UTC)


def _id() -> str:
    return uuid.uuid4().hex


class Base(AsyncAttrs, DeclarativeBase):
    """Base class of the tables."""


class Conversation(Base):
    """A conversation and its owner."""

    __tablename__ = "conversations"
    __table_args__ = (Index("conversations_by_owner", "owner", "updated_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=_id)
    owner: Mapped[str]
    title: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
    messages: Mapped[list[Message]] = relationship(order_by="Message.id", cascade="all, delete-orphan")


class Message(Base):
    """What one side said. ``status`` is ``complete``, ``stopped`` or ``failed``; ``error`` says why it failed."""

    __tablename__ = "messages"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]
    content: Mapped[str]
    status: Mapped[str] = mapped_column(default="complete")
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    tool_calls: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
    images: Mapped[list[Image]] = relationship(order_by="Image.number", cascade="all, delete-orphan")


class Image(Base):
    """A generated image and its parameters. ``id`` cannot be guessed: whoever knows it may see the image."""

    __tablename__ = "pictures"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True, default=_id)
    message_id: Mapped[int] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    owner: Mapped[str] = mapped_column(index=True)
    conversation_id: Mapped[str]
    prompt: Mapped[str]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    media_type: Mapped[str]
    data: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


@dataclass(frozen=True)
class ImagePage:
    """A page of images, newest first, and where the next one begins."""

    images: Sequence[Image]
    next_cursor: int | None


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    # Drivers raise operating system errors when no server answers.
    except (SQLAlchemyError, OSError) as error:
        _log.error("the database failed", exc_info=error)
        raise StoreUnavailable("conversations cannot be saved or loaded right now; try again later") from None


_WITHOUT_DATA = defer(Image.data, raiseload=True)


class ChatStore:
    """Reads and writes the database. Every method raises ``StoreUnavailable`` when it cannot be reached."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._engine = create_async_engine(parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername)))
        self._is_sqlite = parsed.get_backend_name() == "sqlite"
        if self._is_sqlite:
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            event.listen(self._engine.sync_engine, "connect", _sqlite_pragmas)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    async def open(self) -> None:
        """Create the tables if they do not exist."""
        with _store_errors():
            async with self._engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def check(self) -> None:
        """Raise ``StoreUnavailable`` unless the database answers a query."""
        async with self._session() as session:
            await session.execute(text("SELECT 1"))

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction: committed at the end of the block, rolled back by an exception."""
        with _store_errors():
            async with self._sessions.begin() as session:
                yield session

    async def conversations(self, owner: str | None, *, query: str = "", limit: int = 200) -> Sequence[Conversation]:
        """List the conversations of ``owner`` (``None``: everyone's), the most recent first.

        ``query`` is text in the title or in a message.
        """
        wanted = select(Conversation).order_by(Conversation.updated_at.desc()).limit(limit)
        if owner is not None:
            wanted = wanted.where(Conversation.owner == owner)
        if query:
            inside = select(Message.conversation_id).where(Message.content.icontains(query, autoescape=True))
            wanted = wanted.where(Conversation.title.icontains(query, autoescape=True) | Conversation.id.in_(inside))
        async with self._session() as session:
            return (await session.scalars(wanted)).all()

    async def conversation(self, conversation_id: str, owner: str | None) -> Conversation:
        """Load a conversation with messages and images, without their bytes. Raises ``ConversationNotFound``."""
        async with self._session() as session:
            return await self._find(session, conversation_id, owner)

    async def _find(self, session: AsyncSession, conversation_id: str, owner: str | None) -> Conversation:
        with_all = selectinload(Conversation.messages).selectinload(Message.images).options(_WITHOUT_DATA)
        found = await session.get(Conversation, conversation_id, options=[with_all])
        if found is None or owner not in (None, found.owner):
            raise ConversationNotFound("there is no such conversation")
        return found

    async def begin_turn(
        self, owner: str, content: str, *, conversation_id: str | None = None, replace_from: int | None = None
    ) -> tuple[Conversation, Message]:
        """Add the user's message, to a new conversation if ``conversation_id`` is ``None``.

        ``replace_from`` is the id of an earlier message from the user: it and all later ones are deleted first, as for
        edit and retry. Raises ``ConversationNotFound`` or ``InvalidRequest``.
        """
        async with self._session() as session:
            if conversation_id is None:
                conversation = Conversation(owner=owner, title=_title(content), messages=[])
                session.add(conversation)
            else:
                conversation = await self._find(session, conversation_id, owner)
                self._truncate(conversation, replace_from)
                if not conversation.messages:
                    conversation.title = _title(content)
            message = Message(role="user", content=content, images=[])
            conversation.messages.append(message)
            conversation.updated_at = _now()
            return conversation, message

    def _truncate(self, conversation: Conversation, replace_from: int | None) -> None:
        if replace_from is None:
            return
        replaced = next((m for m in conversation.messages if m.id == replace_from and m.role == "user"), None)
        if replaced is None:
            raise InvalidRequest("replace_message_id: the user has no message with this id")
        del conversation.messages[conversation.messages.index(replaced) :]

    async def end_turn(self, conversation_id: str, message: Message) -> None:
        """Add the answer and its images. Raises ``ConversationNotFound`` if the conversation was deleted meanwhile."""
        async with self._session() as session:
            conversation = await session.get(Conversation, conversation_id)
            if conversation is None:
                raise ConversationNotFound("the conversation was deleted in the meantime")
            message.conversation_id = conversation_id
            session.add(message)
            conversation.updated_at = _now()

    async def rename(self, conversation_id: str, owner: str | None, title: str) -> Conversation:
        """Give a conversation another title. Raises ``ConversationNotFound``."""
        async with self._session() as session:
            found = await self._find(session, conversation_id, owner)
            found.title = title
            return found

    async def delete(self, conversation_id: str, owner: str | None) -> None:
        """Delete a conversation with its messages and images. Raises ``ConversationNotFound``."""
        async with self._session() as session:
            await session.delete(await self._find(session, conversation_id, owner))

    async def images(
        self, owner: str | None, *, query: str = "", cursor: int | None = None, limit: int = 60
    ) -> ImagePage:
        """List the images of ``owner`` (``None``: everyone's), newest first; ``query`` holds words of the prompt."""
        wanted = select(Image).options(_WITHOUT_DATA).order_by(Image.number.desc()).limit(limit + 1)
        if owner is not None:
            wanted = wanted.where(Image.owner == owner)
        if cursor is not None:
            wanted = wanted.where(Image.number < cursor)
        for word in query.split():
            wanted = wanted.where(Image.prompt.icontains(word, autoescape=True))
        async with self._session() as session:
            found = (await session.scalars(wanted)).all()
        more = len(found) > limit
        return ImagePage(found[:limit], found[limit - 1].number if more else None)

    async def image(self, image_id: str) -> Image:
        """Load an image with its bytes. Raises ``ImageNotFound``."""
        async with self._session() as session:
            found = await session.scalar(select(Image).where(Image.id == image_id))
        if found is None:
            raise ImageNotFound("there is no such image")
        return found

    async def delete_image(self, image_id: str, owner: str | None) -> None:
        """Delete an image; the message it belongs to stays. Raises ``ImageNotFound``."""
        wanted = delete(Image).where(Image.id == image_id)
        if owner is not None:
            wanted = wanted.where(Image.owner == owner)
        async with self._session() as session:
            if not (await session.execute(wanted.returning(Image.number))).all():
                raise ImageNotFound("there is no such image")


def _title(content: str) -> str:
    line = " ".join(content.split())
    return line if len(line) <= TITLE_CHARACTERS else f"{line[: TITLE_CHARACTERS - 1]}…"


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    # Reads go on during a write, and a committed write survives a killed process.
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA busy_timeout = 10000")
    cursor.close()
