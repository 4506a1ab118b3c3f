"""The chat's own errors in the one table."""

from __future__ import annotations

from aquatint_chat.errors import ConversationNotFound

from aquatint.contract import errors


def test_the_core_knows_no_conversations() -> None:
    assert not hasattr(errors, "ConversationNotFound")


def test_an_error_of_the_chat_has_its_base_s_row() -> None:
    row = errors.mapping(ConversationNotFound("x"))
    assert (row.http, row.grpc) == (404, "NOT_FOUND")
    found = errors.from_wire(errors.to_wire(ConversationNotFound("there is no such conversation")))
    assert type(found) is ConversationNotFound
