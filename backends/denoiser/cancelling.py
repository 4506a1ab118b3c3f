"""Cancelling across Triton's processes, by a file that a request's caller makes and the denoiser looks for.

Triton 2.51 neither hands a cancellation on to the calls that a model makes nor can a model cancel its own; and a second
call may reach another instance than the first. All processes of a server share this folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path


class Cancellation:
    """One request's mark: ``set`` by the caller, seen by whoever was given its ``token``."""

    def __init__(self, token: str | None = None) -> None:
        """Make a new mark, or find the one of ``token``. Raises ``ValueError`` for what is no token."""
        if token is not None and not (token.isalnum() and len(token) == _TOKEN_CHARACTERS):
            raise ValueError("this is no cancellation token")
        self.token = token or secrets.token_hex(_TOKEN_CHARACTERS // 2)
        self._path = _folder() / self.token

    def set(self) -> None:
        """Ask for the request to be stopped."""
        self._path.touch(mode=0o600)

    def is_set(self) -> bool:
        """Whether it should be stopped."""
        return self._path.exists()

    def forget(self) -> None:
        """Leave nothing behind; called by both sides."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


_TOKEN_CHARACTERS = 32


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"aquatint-cancelled-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
