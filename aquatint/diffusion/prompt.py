"""Prompts to token ids, and the results of encoding them. No model runs here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from aquatint.diffusion.served_model import TextEncoder


@dataclass(frozen=True)
class TokenIds:
    """Ids of one prompt for one text encoder, INT64 ``(1, tokens)``, and how many tokens did not fit."""

    input_ids: NDArray[np.int64]
    dropped: int


@dataclass(frozen=True)
class EncoderOutput:
    """``prompt_embeds`` FP32 ``(tokens, hidden)``; ``pooled`` FP32 ``(projection,)`` for CLIP, ``None`` for T5."""

    prompt_embeds: NDArray[np.float32]
    pooled: NDArray[np.float32] | None


@dataclass(frozen=True)
class Conditioning:
    """What conditions the transformer on one prompt.

    ``prompt_embeds`` is FP32 ``(tokens, joint_attention_dim)``, ``pooled`` FP32 ``(pooled_projection_dim,)`` and
    ``dropped_tokens`` the largest number of tokens any encoder had to cut off.
    """

    prompt_embeds: NDArray[np.float32]
    pooled: NDArray[np.float32]
    dropped_tokens: int

    @property
    def nbytes(self) -> int:
        """The memory the arrays take, for cache accounting."""
        return self.prompt_embeds.nbytes + self.pooled.nbytes


class PromptTokenizer:
    """The tokenizers of all present text encoders, loaded from ``<folder>/<tokenizer>/tokenizer.json``.

    Padding and truncation are part of the file: the export writes them.
    """

    def __init__(self, folder: Path, encoders: list[TextEncoder]) -> None:
        self._tokenizers: dict[str, Tokenizer] = {
            encoder.component: Tokenizer.from_file(str(folder / encoder.tokenizer / "tokenizer.json"))
            for encoder in encoders
            if encoder.present
        }

    def __call__(self, component: str, prompt: str) -> TokenIds:
        """Tokenize ``prompt`` for one text encoder."""
        encoding = self._tokenizers[component].encode(prompt)
        dropped = sum(sum(1 for special in rest.special_tokens_mask if not special) for rest in encoding.overflowing)
        return TokenIds(np.array([encoding.ids], np.int64), dropped)
