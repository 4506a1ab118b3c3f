"""Every error Aquatint raises, and the one table that maps it to HTTP, gRPC and MCP.

    AquatintError
    ├── InvalidRequest        a field is missing, of the wrong type or outside its limit
    ├── TooLarge              the request's body is larger than the server takes
    ├── Unauthorized          no or wrong credentials
    ├── Forbidden             the credentials do not allow this
    ├── ModelNotFound         no such model is loaded
    ├── ImageNotFound         no such stored image
    ├── ConversationNotFound  no such conversation
    ├── Overloaded            the queue is full; try again after ``retry_after_s``
    ├── Cancelled             the caller went away or asked to stop
    ├── DeadlineExceeded      the request's time ran out
    ├── EngineUnavailable     the server or a component is not ready, or died
    ├── StoreUnavailable      the image store cannot be reached or refuses
    ├── OutOfMemory           the device's memory is too small for this request
    ├── BundleRejected        a model failed parity, checksum, signature or format checks
    └── Internal              anything else; carries an id to find it in the log

Triton's Python backend has fewer codes than gRPC, so errors cross it as text ``Name: message`` (``to_wire``), from
which ``from_wire`` makes the same exception again in the client.
"""

from __future__ import annotations

import logging
import math
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

_log = logging.getLogger("aquatint")


class AquatintError(Exception):
    """Root of all errors. ``str(error)`` is safe to show to a client."""


class InvalidRequest(AquatintError):
    """A field is missing, of the wrong type or outside its limit; the message names field, limit and value."""


class TooLarge(AquatintError):
    """The request's body is larger than the server takes."""


class Unauthorized(AquatintError):
    """No credentials, or wrong ones."""


class Forbidden(AquatintError):
    """The credentials do not allow this."""


class ModelNotFound(AquatintError):
    """No model of that name is loaded."""


class ImageNotFound(AquatintError):
    """No stored image of that id."""


class ConversationNotFound(AquatintError):
    """No conversation of that id."""


class Overloaded(AquatintError):
    """The queue is full. ``retry_after_s`` says when another try makes sense, ``None`` that nobody knows.

    It is the message's last words too, in whole seconds, and so crosses every protocol.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        hint = "" if retry_after_s is None else f"; retry after {math.ceil(retry_after_s)} s"
        super().__init__(message + hint)
        self.retry_after_s = retry_after_s

    @classmethod
    def from_text(cls, text: str) -> Overloaded:
        """The error whose ``str`` is ``text``."""
        found = _RETRY_AFTER.fullmatch(text)
        return cls(found[1], float(found[2])) if found else cls(text)


class Cancelled(AquatintError):
    """The caller went away or asked to stop."""


class DeadlineExceeded(AquatintError):
    """The request's time ran out."""


class EngineUnavailable(AquatintError):
    """The server or one of its components is not ready, or died."""


class StoreUnavailable(AquatintError):
    """The image store cannot be reached or refuses."""


class OutOfMemory(AquatintError):
    """Too little device memory for this request; the message says what to lower."""


class BundleRejected(AquatintError):
    """A checkpoint or repository failed a check and will not be published or loaded."""


class Internal(AquatintError):
    """An unexpected failure; the message holds only an id to find it in the log."""


@dataclass(frozen=True)
class Mapping:
    """How one error appears over each protocol; ``triton`` is a ``pb_utils.TritonError`` code name."""

    http: int
    grpc: str
    triton: str
    mcp_is_error: bool = True


TABLE: dict[type[AquatintError], Mapping] = {
    InvalidRequest: Mapping(400, "INVALID_ARGUMENT", "INVALID_ARG"),
    TooLarge: Mapping(413, "INVALID_ARGUMENT", "INVALID_ARG"),
    Unauthorized: Mapping(401, "UNAUTHENTICATED", "UNAVAILABLE", mcp_is_error=False),
    Forbidden: Mapping(403, "PERMISSION_DENIED", "UNAVAILABLE", mcp_is_error=False),
    ModelNotFound: Mapping(404, "NOT_FOUND", "NOT_FOUND"),
    ImageNotFound: Mapping(404, "NOT_FOUND", "NOT_FOUND"),
    ConversationNotFound: Mapping(404, "NOT_FOUND", "NOT_FOUND"),
    Overloaded: Mapping(429, "RESOURCE_EXHAUSTED", "UNAVAILABLE"),
    Cancelled: Mapping(499, "CANCELLED", "CANCELLED", mcp_is_error=False),
    DeadlineExceeded: Mapping(504, "DEADLINE_EXCEEDED", "UNAVAILABLE"),
    EngineUnavailable: Mapping(503, "UNAVAILABLE", "UNAVAILABLE"),
    StoreUnavailable: Mapping(503, "UNAVAILABLE", "UNAVAILABLE"),
    OutOfMemory: Mapping(503, "RESOURCE_EXHAUSTED", "UNAVAILABLE"),
    BundleRejected: Mapping(422, "FAILED_PRECONDITION", "UNSUPPORTED"),
    Internal: Mapping(500, "INTERNAL", "INTERNAL"),
}
_BY_NAME = {error.__name__: error for error in TABLE}
_WIRE = re.compile(rf"({'|'.join(_BY_NAME)}): (.*)", re.DOTALL)
_RETRY_AFTER = re.compile(r"(.*); retry after (\d+) s", re.DOTALL)
_OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|bad_alloc|bad allocation", re.IGNORECASE)


def mapping(error: AquatintError) -> Mapping:
    """The table's row for an error."""
    return TABLE[type(error)]


def internal(error: BaseException) -> AquatintError:
    """Hide an unexpected exception: log it under a fresh id and return an error that shows the id alone.

    Exhausted memory is recognised and returned as ``OutOfMemory``.
    """
    if isinstance(error, AquatintError):
        return error
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        _log.error("out of memory", exc_info=error)
        return OutOfMemory("not enough memory: lower width, height or num_images")
    identifier = uuid.uuid4().hex[:12]
    _log.error("internal error %s", identifier, exc_info=error)
    return Internal(f"internal error {identifier}; the server's log has the details")


def from_validation(error: ValidationError) -> InvalidRequest:
    """One line per wrong field: its name, what was expected and, for short values, what was got."""
    return from_validation_details(error.errors(include_url=False))


def from_validation_details(details: Sequence[Any]) -> InvalidRequest:
    """The same from pydantic's error details, as FastAPI's ``RequestValidationError`` has them."""
    lines = []
    for detail in details:
        field = ".".join(str(part) for part in detail["loc"] if part != "body") or "request"
        message = detail["msg"].removeprefix("Value error, ")
        got = repr(detail["input"])
        shown = f" (got {got})" if detail["type"] != "missing" and len(got) <= 40 else ""
        lines.append(f"{field}: {message}{shown}")
    return InvalidRequest("; ".join(lines))


def to_wire(error: AquatintError) -> str:
    """``Name: message``, the text form that crosses Triton."""
    return f"{type(error).__name__}: {error}"


def from_wire(text: str) -> AquatintError | None:
    """The error that ``to_wire`` wrote somewhere in ``text``, or ``None`` if there is none."""
    found = _WIRE.search(text)
    if found is None:
        return None
    kind, message = _BY_NAME[found[1]], found[2].strip()
    return Overloaded.from_text(message) if kind is Overloaded else kind(message)
