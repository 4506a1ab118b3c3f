"""The request contract's fields as tensors: one value of shape ``(1,)`` each, named like the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FieldType:
    """A field's datatype in the Open Inference Protocol and in numpy."""

    datatype: str
    numpy: Any


_BYTES = FieldType("BYTES", np.object_)
_INT32 = FieldType("INT32", np.int32)

FIELD_TYPES: dict[str, FieldType] = {
    "prompt": _BYTES,
    "negative_prompt": _BYTES,
    "num_inference_steps": _INT32,
    "guidance_scale": FieldType("FP32", np.float32),
    "width": _INT32,
    "height": _INT32,
    "seed": FieldType("INT64", np.int64),
    "num_images": _INT32,
    "preview_every": _INT32,
}
