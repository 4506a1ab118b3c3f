"""A page of shared memory for each request: how far it is, its previews, and whether its caller still waits.

Triton 2.51 does not hand a cancellation on to the calls that a model makes, and its Python backend crashes when many
threads make decoupled calls. So a request is one ordinary call, and what happens meanwhile is written here. All
processes of a server share this memory, so it does not matter which instance of the denoiser holds the request.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SHARED_MEMORY = Path("/dev/shm")
_HEADER = np.dtype([("cancelled", np.int32), ("evaluated", np.int32)])
_TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a page has room for: a preview of ``latents`` after every ``preview_every`` of ``evaluations``."""

    latents: tuple[int, ...]
    evaluations: int
    preview_every: int

    @property
    def previews(self) -> int:
        """How many previews there will be."""
        return self.evaluations // self.preview_every if self.preview_every else 0

    @property
    def size(self) -> int:
        """Bytes of the page."""
        return _HEADER.itemsize + self.previews * int(np.prod(self.latents)) * np.dtype(np.float32).itemsize


class Page:
    """One request's page, made by its caller and opened by the denoiser, which are each its only writer of their part.

    Close it at both ends.
    """

    def __init__(self, token: str, shape: Shape, *, create: bool) -> None:
        self.token = token
        self._path = _folder() / f"aquatint-{os.getuid()}-{token}"
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        file = os.open(self._path, flags, 0o600)
        try:
            if create:
                os.ftruncate(file, shape.size)
            self._memory = mmap.mmap(file, shape.size)
        finally:
            os.close(file)
        self._created = create
        self._shape = shape
        self._header = np.frombuffer(self._memory, _HEADER, 1)
        pixels = int(np.prod(shape.latents)) * shape.previews
        floats = np.frombuffer(self._memory, np.float32, pixels, _HEADER.itemsize)
        self._previews = floats.reshape(shape.previews, *shape.latents)

    @classmethod
    def make(cls, shape: Shape) -> Page:
        """Make a page under a name that nobody guesses."""
        return cls(secrets.token_hex(16), shape, create=True)

    @classmethod
    def open(cls, token: str, shape: Shape) -> Page:
        """Open the page that a caller made, once. Raises ``ValueError`` where there is none of that name and size.

        Its name goes at once, so that nothing is left behind when a process is killed.
        """
        if not _TOKEN.fullmatch(token):
            raise ValueError("this is no token of a page")
        try:
            page = cls(token, shape, create=False)
        except OSError as error:
            raise ValueError("there is no such page") from error
        page._remove()
        return page

    def close(self) -> None:
        """Let go of the memory, which goes with the last of both."""
        # The views first: memory that is looked at cannot be closed.
        del self._header, self._previews
        self._memory.close()
        if self._created:
            self._remove()

    def cancel(self) -> None:
        """Ask the denoiser to let the request go at its next step."""
        self._header["cancelled"] = 1

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller waits no longer."""
        return bool(self._header["cancelled"][0])

    @property
    def evaluated(self) -> int:
        """Evaluations so far."""
        return int(self._header["evaluated"][0])

    def advance(self, evaluated: int, heading_for: NDArray[np.float32] | None) -> None:
        """Write that an evaluation is done, after the preview that belongs to it."""
        if heading_for is not None:
            self._previews[evaluated // self._shape.preview_every - 1] = heading_for
        self._header["evaluated"] = evaluated

    def preview_after(self, evaluated: int) -> NDArray[np.float32] | None:
        """Read the latents of the preview that was due after this evaluation, if one was."""
        every = self._shape.preview_every
        if not every or evaluated % every:
            return None
        return np.array(self._previews[evaluated // every - 1])

    def _remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def _folder() -> Path:
    return _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
