"""Errors that only the chat raises; they have the rows of their bases in ``aquatint.contract.errors``."""

from __future__ import annotations

from aquatint.contract.errors import NotFound


class ConversationNotFound(NotFound):
    """There is no conversation with that id, or it belongs to someone else."""
