"""How alike two images are: cosine similarity of their embeddings.

Two embedders: the bundled judge of the mini checkpoint (no download), or any image encoder that transformers loads
(DINOv2, CLIP) from a folder or the hub.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from aquatint_pipelines.mini import judge as judges

JUDGE = "judge"
# An installed package has no models beside it: a container image says where they are.
_JUDGE_FOLDER = Path(os.environ.get("AQUATINT_JUDGE", Path(__file__).resolve().parents[2] / "models" / "judge"))
_JUDGE_SIZE = 64


class Embedder(Protocol):
    """Embeds images."""

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed UINT8 ``(n, h, w, 3)`` as FLOAT32 ``(n, d)``, each of length 1."""


def open_embedder(name: str = JUDGE) -> Embedder:
    """Open ``judge``, or an image encoder by name or folder."""
    return JudgeEmbedder(judges.load(_JUDGE_FOLDER)) if name == JUDGE else HubEmbedder(name)


class JudgeEmbedder:
    """The judge's features before its heads, averaged within each quarter of the image."""

    def __init__(self, judge: judges.Judge) -> None:
        self._judge = judge

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed at the size the judge was trained for."""
        tensor = torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        tensor = F.interpolate(tensor, (_JUDGE_SIZE, _JUDGE_SIZE), mode="area")
        return _unit(self._judge.embed(tensor))


class HubEmbedder:
    """The pooled output of an image encoder, such as ``facebook/dinov2-base`` or a CLIP vision model."""

    def __init__(self, name: str) -> None:
        from transformers import AutoImageProcessor, AutoModel  # noqa: PLC0415 - only this embedder needs them

        self._processor = AutoImageProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]  # untyped upstream
        self._model = AutoModel.from_pretrained(name).eval()

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed images as the encoder's own processor prepares them."""
        inputs = self._processor(images=list(images), return_tensors="pt")
        if hasattr(self._model, "get_image_features"):
            return _unit(self._model.get_image_features(**inputs))
        return _unit(self._model(**inputs).pooler_output)


def similarity(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Average over ``first`` the cosine to the nearest of ``second``."""
    return float((first @ second.T).max(axis=1).mean())


def _unit(vectors: torch.Tensor) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = F.normalize(vectors.float(), dim=1).numpy()
    return unit
