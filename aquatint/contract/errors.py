"""Every error Aquatint raises, and the one table that maps it to HTTP, gRPC and Triton.

    AquatintError
    ├── InvalidRequest        a field is missing, of the wrong type or outside its limit
    ├── TooLarge              the request's body is larger than the server accepts
    ├── Unauthorized          no or wrong credentials
    ├── Forbidden             the credentials do not allow this
    ├── NotFound
    │   ├── ModelNotFound     no such model is loaded
    │   └── ImageNotFound     no such stored image
    ├── Overloaded            the queue is full; try again after ``retry_after_s``
    ├── Cancelled             the caller went away or asked to stop
    ├── DeadlineExceeded      the request's time ran out
    ├── EngineUnavailable     the server or a component is not ready, or died
    ├── StoreUnavailable      the image store cannot be reached or refuses
    ├── HubUnavailable        a model hub cannot be reached or refuses
    ├── OutOfMemory           the device's memory is too small for this request
    ├── ModelRejected         a checkpoint or repository failed parity, checksum, signature or format checks
    ├── InvalidConfiguration  an option or setting chosen by the server's owner cannot be used
    ├── DependencyMissing     a required package is not installed
    └── Internal              anything else; carries an id to find it in the log

A subclass without a row of its own has its base's, so that a component can add errors of its own. Triton's Python
backend has fewer codes than gRPC, so errors cross it as text ``Name: message`` (``to_wire``), from which ``from_wire``
makes the same exception again in the client.
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
    """The request's body is larger than the server accepts."""


class Unauthorized(AquatintError):
    """No credentials, or wrong ones."""


class Forbidden(AquatintError):
    """The credentials do not allow this."""


class NotFound(AquatintError):
    """There is nothing by that name."""


class ModelNotFound(NotFound):
    """No model by that name is loaded."""


class ImageNotFound(NotFound):
    """There is no stored image with that id."""


class Overloaded(AquatintError):
    """The queue is full. ``retry_after_s`` says when to try again; ``None`` means unknown.

    It also ends the message, in whole seconds, and so crosses every protocol.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        hint = "" if retry_after_s is None else f"; retry after {math.ceil(retry_after_s)} s"
        super().__init__(message + hint)
        self.retry_after_s = retry_after_s

    @classmethod
    def from_text(cls, text: str) -> Overloaded:
        """Make the error whose ``str`` is ``text``."""
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
    """There is too little device memory for this request; the message says what to lower."""


class ModelRejected(AquatintError):
    """A checkpoint, dataset or repository failed a check and will not be used, published or loaded."""


class HubUnavailable(AquatintError):
    """A model hub cannot be reached, knows no such model, or does not let this caller have it."""


class InvalidConfiguration(AquatintError):
    """An option or setting chosen by the server's owner cannot be used; the message names it."""


class DependencyMissing(AquatintError):
    """A required package is not installed; the message says what to install."""


class Internal(AquatintError):
    """An unexpected failure; the message holds only an id to find it in the log."""


@dataclass(frozen=True)
class Mapping:
    """How one error appears over each protocol; ``triton`` is a ``pb_utils.TritonError`` code name."""

    http: int
    grpc: str
    triton: str


TABLE: dict[type[AquatintError], Mapping] = {
    InvalidRequest: Mapping(400, "INVALID_ARGUMENT", "INVALID_ARG"),
    TooLarge: Mapping(413, "INVALID_ARGUMENT", "INVALID_ARG"),
    Unauthorized: Mapping(401, "UNAUTHENTICATED", "UNAVAILABLE"),
    Forbidden: Mapping(403, "PERMISSION_DENIED", "UNAVAILABLE"),
    NotFound: Mapping(404, "NOT_FOUND", "NOT_FOUND"),
    Overloaded: Mapping(429, "RESOURCE_EXHAUSTED", "UNAVAILABLE"),
    Cancelled: Mapping(499, "CANCELLED", "CANCELLED"),
    DeadlineExceeded: Mapping(504, "DEADLINE_EXCEEDED", "UNAVAILABLE"),
    EngineUnavailable: Mapping(503, "UNAVAILABLE", "UNAVAILABLE"),
    StoreUnavailable: Mapping(503, "UNAVAILABLE", "UNAVAILABLE"),
    HubUnavailable: Mapping(503, "UNAVAILABLE", "UNAVAILABLE"),
    OutOfMemory: Mapping(503, "RESOURCE_EXHAUSTED", "UNAVAILABLE"),
    InvalidConfiguration: Mapping(500, "FAILED_PRECONDITION", "UNSUPPORTED"),
    DependencyMissing: Mapping(501, "UNIMPLEMENTED", "UNSUPPORTED"),
    ModelRejected: Mapping(422, "FAILED_PRECONDITION", "UNSUPPORTED"),
    Internal: Mapping(500, "INTERNAL", "INTERNAL"),
}
_WIRE = re.compile(r"\b([A-Z]\w+): (?=(.*))", re.DOTALL)
_RETRY_AFTER = re.compile(r"(.*); retry after (\d+) s", re.DOTALL)
_OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|bad_alloc|bad allocation", re.IGNORECASE)


def mapping(error: AquatintError) -> Mapping:
    """Find the table's row for an error: its own, or the nearest of its bases'."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def internal(error: BaseException) -> AquatintError:
    """Hide an unexpected exception: log it under a fresh id and return an error that shows only the id.

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
    """Describe each wrong field on a line: its name, what was expected and, for short values, what was given."""
    return from_validation_details(error.errors(include_url=False))


def from_validation_details(details: Sequence[Any]) -> InvalidRequest:
    """Do the same for pydantic's error details, as in FastAPI's ``RequestValidationError``."""
    lines = []
    for detail in details:
        field = ".".join(str(part) for part in detail["loc"] if part != "body") or "request"
        message = detail["msg"].removeprefix("Value error, ")
        got = repr(detail["input"])
        shown = f" (got {got})" if detail["type"] != "missing" and len(got) <= 40 else ""
        lines.append(f"{field}: {message}{shown}")
    return InvalidRequest("; ".join(lines))


def to_wire(error: AquatintError) -> str:
    """Encode the error as ``Name: message``, the text form that crosses Triton."""
    return f"{type(error).__name__}: {error}"


def from_wire(text: str) -> AquatintError | None:
    """Make the error that ``to_wire`` wrote somewhere in ``text``, or return ``None`` if there is none."""
    by_name = {kind.__name__: kind for kind in _subclasses(AquatintError)}
    for found in _WIRE.finditer(text):
        if kind := by_name.get(found[1]):
            message = found[2].strip()
            return Overloaded.from_text(message) if kind is Overloaded else kind(message)
    return None


def _subclasses(kind: type[AquatintError]) -> list[type[AquatintError]]:
    """Yield all of them that are imported: one that only another process knows is not an error here."""
    return [each for direct in kind.__subclasses__() for each in (direct, *_subclasses(direct))]
