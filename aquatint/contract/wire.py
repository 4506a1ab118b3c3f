"""How events travel: as the output tensors of a Triton model, and as the JSON that Triton makes of them.

One encoder and one decoder for every protocol and both directions; nothing here knows a transport.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aquatint.contract.generation import Event, Generation, Progress, finished_images, preview_images
from aquatint.contract.image import Image
from aquatint.contract.request import ResolvedRequest, TensorType


@dataclass(frozen=True)
class OutputTensor:
    """One output of a text-to-image model."""

    type: TensorType
    dims: tuple[int, ...]


OUTPUTS: dict[str, OutputTensor] = {
    "image": OutputTensor(TensorType("UINT8", np.uint8), (-1, -1, -1, 3)),
    # PNG files as base64 text, so that JSON can carry them.
    "png": OutputTensor(TensorType("BYTES", np.object_), (-1,)),
    "seed": OutputTensor(TensorType("INT64", np.int64), (-1,)),
    "info": OutputTensor(TensorType("BYTES", np.object_), (1,)),
}

Tensors = Mapping[str, NDArray[Any]]


def encode(event: Event, wanted: Collection[str]) -> dict[str, NDArray[Any]]:
    """Encode an event as the requested output tensors; progress has images only where it has previews."""
    images = event.images if isinstance(event, Generation) else event.previews
    tensors: dict[str, NDArray[Any]] = {"info": np.array([json.dumps(_info(event))], np.object_)}
    if isinstance(event, Generation):
        tensors["seed"] = np.array(event.parameters.seeds, np.int64)
    if images and "png" in wanted:
        tensors["png"] = np.array([base64.b64encode(image.png) for image in images], np.object_)
    if images and "image" in wanted:
        tensors["image"] = np.stack([image.pixels for image in images])
    return {name: value for name, value in tensors.items() if name in wanted}


def decode(tensors: Tensors) -> Event:
    """Decode the event that ``encode`` made: from ``info``, and ``png`` or ``image`` where there are images."""
    info = json.loads(tensors["info"].reshape(-1)[0])
    files = [base64.b64decode(file) for file in tensors["png"].reshape(-1)] if "png" in tensors else []
    pixels = tensors.get("image")
    if info["type"] == "progress":
        previews = [Image(png=file) for file in files] if pixels is None else preview_images(pixels)
        return Progress(info["step"], info["total_steps"], previews)
    parameters = ResolvedRequest.model_validate(info["parameters"])
    if pixels is None:
        images = [Image(png=file, seed=seed) for file, seed in zip(files, info["seeds"])]
    else:
        images = finished_images(pixels, parameters)
    return Generation(images, parameters, info["dropped_tokens"], info["timings"], info["batch"])


def to_json(event: Event) -> dict[str, Any]:
    """Convert an event to the JSON of Triton's ``generate`` endpoints, where a single value is not a list."""
    tensors = encode(event, ("info", "png"))
    texts = {
        name: [value.decode() if isinstance(value, bytes) else value for value in tensors[name]] for name in tensors
    }
    return {name: values[0] if len(values) == 1 else values for name, values in texts.items()}


def from_json(answer: Mapping[str, Any]) -> Event:
    """Read the event in an answer of Triton's ``generate`` endpoints."""
    values = {name: answer[name] for name in ("info", "png") if name in answer}
    return decode({name: np.atleast_1d(np.array(value, np.object_)) for name, value in values.items()})


def _info(event: Event) -> dict[str, Any]:
    if isinstance(event, Progress):
        return {"type": "progress", "step": event.step, "total_steps": event.total_steps}
    return {
        "type": "completed",
        "parameters": event.parameters.model_dump(),
        "seeds": event.parameters.seeds,
        "dropped_tokens": event.dropped_tokens,
        "timings": event.timings,
        "batch": event.batch,
    }
