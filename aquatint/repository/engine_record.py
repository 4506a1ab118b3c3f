"""``engine.json`` beside a TensorRT engine: what built it, for what, and whether this machine can run it.

TensorRT itself notices only while loading, in its own words, and some differences not at all.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from aquatint.contract.errors import ModelRejected

FILE_NAME = "engine.json"
PLAN_NAME = "model.plan"


class TensorRecord(BaseModel):
    """One input or output. ``shape`` has -1 for dynamic axes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str
    shape: list[int]


class ShapeRange(BaseModel):
    """The optimization profile of one input: the shapes it accepts, and the one it is fastest with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    smallest: list[int]
    fastest: list[int]
    largest: list[int]


class EngineRecord(BaseModel):
    """The description of one engine; ``compute_capabilities`` are names such as ``sm90``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    library: str
    version: str
    compute_capabilities: list[str]
    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]
    profile: dict[str, ShapeRange]
    refittable: bool
    weight_streaming: bool
    plan_bytes: int

    @property
    def max_rows(self) -> int:
        """The largest batch."""
        return min(shape.largest[0] for shape in self.profile.values())


def read(folder: Path) -> EngineRecord:
    """Read ``engine.json``. Raises ``ModelRejected`` if it is missing or does not match its engine."""
    try:
        record = EngineRecord.model_validate_json((folder / FILE_NAME).read_bytes())
        size = (folder / PLAN_NAME).stat().st_size
    except FileNotFoundError as error:
        raise ModelRejected(
            f"{Path(error.filename).name} is missing: build the engine with 'aquatint export'"
        ) from None
    except ValidationError as error:
        raise ModelRejected(f"{FILE_NAME} is not valid") from error
    if size != record.plan_bytes:
        raise ModelRejected(f"{PLAN_NAME} has {size} bytes, but its record says {record.plan_bytes}")
    return record


def check_usable(record: EngineRecord, *, library: str, version: str, capability: str, max_rows: int) -> None:
    """Raise ``ModelRejected``, saying why, if an engine cannot run here.

    ``capability`` is this GPU's, such as ``sm90``; ``max_rows`` is the batch size in the model's configuration.
    """
    again = "export again here"
    if record.library != library:
        raise ModelRejected(f"the engine was built by {record.library}, but this server has {library}: {again}")
    if record.version != version:
        raise ModelRejected(
            f"the engine was built by {library} {record.version}, but this server has {version}: {again}"
        )
    if capability not in record.compute_capabilities:
        built_for = ", ".join(record.compute_capabilities)
        raise ModelRejected(f"the engine was built for {built_for}, but this GPU is {capability}: {again}")
    if max_rows > record.max_rows:
        raise ModelRejected(
            f"the engine takes at most {record.max_rows} rows, but its model configuration promises {max_rows}: "
            f"{again} with --max-batch-size {max_rows}"
        )
