import inspect

import grpc
import pytest

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, Overloaded


def leaves() -> list[type[AquatintError]]:
    found = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, AquatintError)]
    return [error for error in found if error is not AquatintError]


def test_every_error_has_a_row() -> None:
    for error in leaves():
        assert set(error.__mro__) & set(errors.TABLE), error


def test_a_subclass_has_its_base_s_row() -> None:
    class TooManyFrames(errors.InvalidRequest):
        pass

    class WrongFrame(TooManyFrames):
        pass

    assert errors.mapping(WrongFrame("x")) == errors.TABLE[errors.InvalidRequest]
    found = errors.from_wire(f"RuntimeError: backend: {errors.to_wire(WrongFrame('frame: is 7'))}")
    assert type(found) is WrongFrame


# Written out once more: callers of every protocol rely on these.
CODES = {
    errors.InvalidRequest: (400, "INVALID_ARGUMENT"),
    errors.TooLarge: (413, "INVALID_ARGUMENT"),
    errors.Unauthorized: (401, "UNAUTHENTICATED"),
    errors.Forbidden: (403, "PERMISSION_DENIED"),
    errors.ModelNotFound: (404, "NOT_FOUND"),
    errors.ImageNotFound: (404, "NOT_FOUND"),
    errors.NotFound: (404, "NOT_FOUND"),
    errors.HubUnavailable: (503, "UNAVAILABLE"),
    errors.InvalidConfiguration: (500, "FAILED_PRECONDITION"),
    errors.DependencyMissing: (501, "UNIMPLEMENTED"),
    errors.ModelRejected: (422, "FAILED_PRECONDITION"),
    errors.Overloaded: (429, "RESOURCE_EXHAUSTED"),
    errors.Cancelled: (499, "CANCELLED"),
    errors.DeadlineExceeded: (504, "DEADLINE_EXCEEDED"),
    errors.EngineUnavailable: (503, "UNAVAILABLE"),
    errors.StoreUnavailable: (503, "UNAVAILABLE"),
    errors.OutOfMemory: (503, "RESOURCE_EXHAUSTED"),
    errors.Internal: (500, "INTERNAL"),
}


@pytest.mark.parametrize("kind", leaves())
def test_codes(kind: type[AquatintError]) -> None:
    row = errors.mapping(kind("x"))
    assert (row.http, row.grpc) == CODES[kind]
    assert hasattr(grpc.StatusCode, row.grpc)


@pytest.mark.parametrize("kind", leaves())
def test_wire_round_trip(kind: type[AquatintError]) -> None:
    error = kind("width: must be a multiple of 16, is 7")
    found = errors.from_wire(f"[request id: 1] {errors.to_wire(error)}")
    assert type(found) is kind
    assert str(found) == str(error)


@pytest.mark.parametrize(("asked_s", "told_s"), [(7.0, 7), (0.3, 1), (12.01, 13)])
def test_when_to_retry_crosses_the_wire(asked_s: float, told_s: int) -> None:
    error = Overloaded("80 requests are queued", asked_s)
    assert str(error) == f"80 requests are queued; retry after {told_s} s"
    found = errors.from_wire(f"[request id: 1] {errors.to_wire(error)}")
    assert isinstance(found, Overloaded)
    assert found.retry_after_s == told_s
    assert str(found) == str(error)
    again = errors.from_wire(errors.to_wire(found))
    assert str(again) == str(error)


def test_nobody_knows_when_to_retry() -> None:
    found = errors.from_wire(errors.to_wire(Overloaded("full")))
    assert isinstance(found, Overloaded)
    assert found.retry_after_s is None
    assert str(found) == "full"


def test_foreign_text_is_no_error_of_ours() -> None:
    assert errors.from_wire("Socket closed") is None


def test_internal_hides_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    hidden = errors.internal(RuntimeError("/secret/path exploded"))
    assert isinstance(hidden, errors.Internal)
    assert "secret" not in str(hidden)
    identifier = str(hidden).split()[2].rstrip(";")
    assert identifier in caplog.text
    assert "/secret/path exploded" in caplog.text


def test_exhausted_memory_is_recognised() -> None:
    assert isinstance(errors.internal(MemoryError()), errors.OutOfMemory)
    assert isinstance(errors.internal(RuntimeError("CUDA out of memory. Tried to allocate")), errors.OutOfMemory)
