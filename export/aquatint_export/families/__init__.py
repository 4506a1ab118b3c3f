"""Kinds of checkpoints that can be taken apart and exported. A module here that defines ``FAMILY`` adds one."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from aquatint.contract.errors import ModelRejected
from aquatint.contract.request import ResolvedRequest
from aquatint.diffusion import plugins
from aquatint.diffusion.pipeline import Pipeline
from aquatint.diffusion.served_model import ServedModel, TextEncoder
from aquatint.repository import checkpoint_info, hub
from aquatint_export.components import Component
from aquatint_export.options import ExportOptions


class Checkpoint(Protocol):
    """A loaded checkpoint in FP32 on the CPU. Large components may have no weights in memory."""

    @property
    def folder(self) -> Path:
        """The diffusers folder."""

    @property
    def source(self) -> str:
        """Where it came from: a folder's name, or a hub id."""

    @property
    def licence(self) -> str:
        """The licence that its model card names."""

    def components(self) -> list[Component]:
        """List what is exported, around the checkpoint's own modules."""

    def loaded(self, component: Component) -> AbstractContextManager[nn.Module]:
        """Hold a component's module with its weights in FP32; if it had none in memory, they are freed again."""

    def can_stream(self, component: Component) -> bool:
        """Return whether ``stream`` exports this component, as its weights do not fit into memory twice."""

    def stream(self, component: Component, folder: Path, *, dtype: str) -> None:
        """Write ``folder/model.onnx`` without holding the weights. Raises ``ModelRejected``."""

    def served_model(self, options: ExportOptions) -> ServedModel:
        """Describe the model that is served."""

    def tokenizer(self, encoder: TextEncoder) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a text encoder that is present."""

    def generate(self, request: ResolvedRequest, pipeline: Pipeline) -> NDArray[np.uint8]:
        """Generate one image, UINT8 ``(height, width, 3)``, by diffusers; ``pipeline`` may help to encode prompts."""


class Family(Protocol):
    """One kind of checkpoint. ``pipeline_class`` is diffusers' name in ``model_index.json``."""

    pipeline_class: str

    def load(self, folder: Path, source: str, options: ExportOptions) -> Checkpoint:
        """Load a diffusers folder that came from ``source``. Raises ``ModelRejected``."""


@functools.cache
def registry() -> dict[str, Family]:
    """Return every family by its pipeline's class."""
    return {family.pipeline_class: family for family in plugins.defined_in(__name__, __path__, "FAMILY")}


def load(source: str, options: ExportOptions) -> Checkpoint:
    """Load a diffusers folder or a hub id. Raises ``HubUnavailable`` or ``ModelRejected``."""
    folder = hub.fetch(source)
    name = checkpoint_info.model_index(folder).get("_class_name")
    if name not in registry():
        raise ModelRejected(f"only {', '.join(registry())} checkpoints can be exported, this is {name}")
    return registry()[name].load(folder, source, options)
