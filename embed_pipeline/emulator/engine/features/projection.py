"""Projecting features of any length to 512 values, the same on every machine and with every version of numpy."""

from __future__ import annotations

import functools

import numpy as np

from embed_pipeline.emulator.engine.request import FloatArray

DIMENSION = 512


def unit(vectors: FloatArray) -> FloatArray:
    """The same vectors with length one.

    Args:
        vectors: float32 of shape (..., dimension).

    Returns:
        The same shape. A vector of nothing but zeros becomes the first axis: a length of one is promised.
    """
    exact = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(exact, axis=-1, keepdims=True)
    result = np.divide(exact, lengths, out=np.zeros_like(exact), where=lengths > 1e-12)
    result[..., 0] += lengths[..., 0] <= 1e-12
    return np.asarray(result, np.float32)


def project(features: FloatArray, seed: int) -> FloatArray:
    """Project features so that their angles are kept, about evenly over all 512 values.

    Random signs, a Walsh-Hadamard transform and a random choice of its rows: any prefix of the result is again such a
    projection, which is what makes shorter vectors a prefix of the long ones. Up to 512 features lose nothing.

    Args:
        features: float32 of shape (features,), at most 4,096 of them.
        seed: Which projection. Different seeds give rotations that have nothing to do with each other.

    Returns:
        float32 of shape (512,), of unit length.
    """
    return unit(np.asarray(features @ _matrix(features.shape[0], seed), np.float32))


@functools.lru_cache(maxsize=16)
def _matrix(count: int, seed: int) -> FloatArray:
    size = max(DIMENSION, 1 << max(0, count - 1).bit_length())
    # `random_raw` is the one stream of numpy that is promised never to change.
    raw = np.random.PCG64(seed).random_raw(2 * size)
    signs = np.where(raw[:size] >> np.uint64(63), 1.0, -1.0).astype(np.float32)
    rows = np.argsort(raw[size:], kind="stable")[:DIMENSION]
    # The Walsh-Hadamard matrix has -1 where a row's and a column's number share an odd count of bits.
    odd = np.bitwise_count(np.arange(count)[:, None] & rows) & 1
    matrix: FloatArray = (1 - 2 * odd.astype(np.float32)) * signs[:count, None]
    return np.ascontiguousarray(matrix / np.float32(np.sqrt(DIMENSION)))


def shorten(vectors: FloatArray, dimension: int) -> FloatArray:
    """The first `dimension` values of each vector, of unit length again.

    Args:
        vectors: float32 of shape (rows, 512).
        dimension: How many values to keep.
    """
    return vectors if dimension >= vectors.shape[1] else unit(np.ascontiguousarray(vectors[:, :dimension]))
