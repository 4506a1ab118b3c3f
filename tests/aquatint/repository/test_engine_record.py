from pathlib import Path

import pytest

from aquatint.contract.errors import ModelRejected
from aquatint.repository import engine_record
from aquatint.repository.engine_record import EngineRecord, ShapeRange, TensorRecord

RECORD = EngineRecord(
    library="tensorrt",
    version="10.4.0",
    compute_capabilities=["sm89", "sm90"],
    inputs={"x": TensorRecord(dtype="FLOAT", shape=[-1, 4])},
    outputs={"y": TensorRecord(dtype="FLOAT", shape=[-1, 4])},
    profile={"x": ShapeRange(smallest=[1, 4], fastest=[2, 4], largest=[8, 4])},
    refittable=False,
    weight_streaming=False,
    plan_bytes=3,
)


def write(folder: Path) -> None:
    (folder / engine_record.PLAN_NAME).write_bytes(b"abc")
    (folder / engine_record.FILE_NAME).write_text(RECORD.model_dump_json())


def test_read(tmp_path: Path) -> None:
    write(tmp_path)
    assert engine_record.read(tmp_path) == RECORD


def test_an_engine_that_fits_is_let_through() -> None:
    engine_record.check_usable(RECORD, library="tensorrt", version="10.4.0", capability="sm90", max_rows=8)


@pytest.mark.parametrize(
    ("library", "version", "capability", "rows", "reason"),
    [
        ("tensorrt_rtx", "10.4.0", "sm90", 8, "built by tensorrt, but this server has tensorrt_rtx"),
        ("tensorrt", "10.5.0", "sm90", 8, r"built by tensorrt 10\.4\.0, but this server has 10\.5\.0"),
        ("tensorrt", "10.4.0", "sm86", 8, "built for sm89, sm90, but this GPU is sm86"),
        ("tensorrt", "10.4.0", "sm90", 16, "at most 8 rows, but its model configuration promises 16"),
    ],
)
def test_an_engine_of_another_kind_is_refused(
    library: str, version: str, capability: str, rows: int, reason: str
) -> None:
    with pytest.raises(ModelRejected, match=reason):
        engine_record.check_usable(RECORD, library=library, version=version, capability=capability, max_rows=rows)


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"engine\.json is missing"):
        engine_record.read(tmp_path)
    write(tmp_path)
    (tmp_path / engine_record.PLAN_NAME).write_bytes(b"abcd")
    with pytest.raises(ModelRejected, match="has 4 bytes, but its record says 3"):
        engine_record.read(tmp_path)
    (tmp_path / engine_record.PLAN_NAME).unlink()
    with pytest.raises(ModelRejected, match=r"model\.plan is missing"):
        engine_record.read(tmp_path)
    (tmp_path / engine_record.FILE_NAME).write_text("{}")
    with pytest.raises(ModelRejected, match="not valid"):
        engine_record.read(tmp_path)
