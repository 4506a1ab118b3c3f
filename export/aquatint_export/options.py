"""What an export can be told."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Target(StrEnum):
    """Where an exported repository will run."""

    EMBEDDED = "embedded"
    NGC = "ngc"


class Dtype(StrEnum):
    """The precision of exported weights."""

    FP32 = "fp32"
    FP16 = "fp16"


class TensorRTOptions(BaseModel):
    """How TensorRT engines are built.

    ``workspace_bytes`` limits scratch memory; ``refit`` lets fine-tuned weights be put in later; ``timing_cache`` is a
    file that makes later builds faster; ``compute_capabilities`` (``tensorrt_rtx`` only) names the GPUs to build for,
    like ``SM89``, none meaning all from Ampere on that the library knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    refit: bool = False
    weight_streaming: bool = False
    workspace_bytes: Annotated[int, Field(ge=0)] | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()


class ExportOptions(BaseModel):
    """One export.

    ``name`` is the served model's; ``engine`` one of ``engines``; ``max_batch_size`` the most rows of one batch.
    ``low_memory`` holds one component at a time and streams the weights of the large ones; whole images are then not
    compared. ``drop`` leaves out text encoders.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "mini"
    engine: str = "onnx"
    target: Target = Target.EMBEDDED
    dtype: Dtype = Dtype.FP32
    max_batch_size: Annotated[int, Field(ge=2)] = 32
    low_memory: bool = False
    drop: tuple[str, ...] = ()
    tensorrt: TensorRTOptions = TensorRTOptions()
