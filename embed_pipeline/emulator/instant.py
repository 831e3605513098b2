"""The instant engine: vectors from a hash instead of from pictures and sound.

For benchmarks and for tests that need the platform's behaviour at speed and no vectors that mean anything. It says so
in every result: its space is `instant-1`, which nothing else shares.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embed_pipeline.emulator.probe import UnreadableMediaError, read_header
from embed_pipeline.emulator.request import AcceptedRequest, Segmentation
from embed_pipeline.emulator.results import EmbeddingResult
from embed_pipeline.emulator.sources import SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENGINE = "instant-1"
_FULL_DIMENSION = 512
_EDGE = 1 << 16
_UNPROCESSABLE = "We could not process your media for embedding. Please verify the input file and try again."


def content_digest(path: Path) -> bytes:
    """Hash a file by its size, its first and its last 64 KiB: enough to tell files apart, and fast for large ones."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(_EDGE))
        if size > _EDGE:
            file.seek(max(_EDGE, size - _EDGE))
            digest.update(file.read(_EDGE))
    return digest.digest()


def header_duration(path: Path) -> float:
    """Read how long a media file claims to be, in seconds, without decoding it.

    Raises:
        SourceError: If it is no media file, or does not say.
    """
    try:
        duration = read_header(path).duration_sec
    except UnreadableMediaError:
        duration = None
    if duration is None:
        raise SourceError(_UNPROCESSABLE)
    return duration


def embed_instant(content: bytes, duration_sec: float, request: AcceptedRequest) -> EmbeddingResult:
    """Make the rows a request asks for.

    Args:
        content: What stands for the media: equal content, option, scope and window give equal vectors.
        duration_sec: Length of the media.
        request: What to make.

    Returns:
        A row for every option, scope and window that the request names, in that order.

    Raises:
        SourceError: If the window begins after the end of the media.
    """
    if not request.timed:
        return _embed_still(content, request)
    start = request.start_sec or 0.0
    end = duration_sec if request.end_sec is None else min(request.end_sec, duration_sec)
    if end <= start:
        raise SourceError("The embedding request was invalid.")
    cut = request.segmentation or Segmentation("dynamic", 2)
    step = float(cut.seconds)
    edges = np.append(np.arange(start, end, step), end)
    # A dynamic segment is never shorter than asked for: the rest belongs to the one before.
    shortest = step if cut.strategy == "dynamic" else 1e-6
    if edges.size > 2 and edges[-1] - edges[-2] < shortest:
        edges = np.delete(edges, -2)
    kinds = list(request.options) if "separate_embedding" in request.types else []
    if "fused_embedding" in request.types:
        kinds.append("fused")
    labels: list[tuple[str, str]] = []
    starts: list[NDArray[np.float64]] = []
    ends: list[NDArray[np.float64]] = []
    vectors: list[NDArray[np.float32]] = []
    whole = np.array([start]), np.array([end])
    for kind in kinds:
        for scope in request.result_scopes:
            first, last = (edges[:-1], edges[1:]) if scope == "clip" else whole
            labels += [(kind, scope)] * len(first)
            starts.append(first)
            ends.append(last)
            vectors.append(_hashed_vectors(content, f"{kind}/{scope}", first, last)[:, : request.dimension])
    matrix = _unit(np.concatenate(vectors))
    return EmbeddingResult(
        engine=ENGINE,
        duration_sec=duration_sec,
        labels=tuple(labels),
        start_sec=np.concatenate(starts),
        end_sec=np.concatenate(ends),
        vectors=matrix,
        uncertainty=np.full_like(matrix, 0.5, dtype=np.float32) if request.uncertainty else None,
        missing={},
    )


def _embed_still(content: bytes, request: AcceptedRequest) -> EmbeddingResult:
    zero = np.zeros(1)
    (option,) = request.options
    matrix = _unit(_hashed_vectors(content, f"{option}/asset", zero, zero)[:, : request.dimension])
    return EmbeddingResult(
        engine=ENGINE,
        duration_sec=None,
        labels=((option, "asset"),),
        start_sec=np.full(1, np.nan),
        end_sec=np.full(1, np.nan),
        vectors=matrix,
        uncertainty=np.full_like(matrix, 0.5) if request.uncertainty else None,
        missing={},
    )


def _unit(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), dtype=np.float32)


def _hashed_vectors(
    content: bytes, label: str, start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Hash content, label and window to numbers in -1..1 (splitmix64 over a row's seed and the column)."""
    seed = int.from_bytes(hashlib.blake2b(content + label.encode(), digest_size=8).digest(), "little")
    windows = np.round(start * 1000).astype(np.uint64) * np.uint64(1 << 32) + np.round(end * 1000).astype(np.uint64)
    rows = _mix(windows ^ np.uint64(seed))
    cells = _mix(rows[:, None] + np.arange(_FULL_DIMENSION, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (cells >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1.0)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
