"""Embedding text without a model: hashed words and pieces of words."""

from __future__ import annotations

import re
import zlib

import numpy as np

from embed_pipeline.emulator.engine.features.projection import DIMENSION, project
from embed_pipeline.emulator.engine.request import FloatArray

_SEED = 0x54455854
_WORD = re.compile(r"\w+")


def embed_text(text: str) -> FloatArray:
    """One vector for a text, close to those of texts that share its words or parts of them.

    Args:
        text: Any text.

    Returns:
        float32 of shape (512,), of unit length.
    """
    weights = np.zeros(DIMENSION, np.float32)
    counts: dict[str, float] = {}
    for word in _WORD.findall(text.casefold()):
        # Short words are mostly the ones that every sentence has.
        importance = min(1.0, len(word) / 5) ** 2
        counts[f"={word}"] = counts.get(f"={word}", 0.0) + importance
        padded = f"<{word}>"
        for length in (3, 4):
            for start in range(len(padded) - length + 1):
                piece = padded[start : start + length]
                counts[piece] = counts.get(piece, 0.0) + 0.35 * importance
    for piece, count in counts.items():
        code = zlib.crc32(piece.encode())
        weights[code % DIMENSION] += (1.0 if code >> 31 else -1.0) * np.sqrt(count)
    return project(weights, _SEED)
