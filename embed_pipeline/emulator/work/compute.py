"""From an accepted request and a local file to the rows of a result: the bridge to the engines, and the instant one.

The engine `instant` makes vectors from a hash: for benchmarks, and for tests that need none with a meaning.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embed_pipeline.emulator.engine.failure import UNPROCESSABLE
from embed_pipeline.emulator.rules.request import AcceptedRequest, Segmentation
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.emulator.state.results import EmbeddingResult
from embed_pipeline.emulator.work.probe import UnreadableMediaError, read_header
from embed_pipeline.emulator.work.sources import SourceError
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embed_pipeline.emulator.engine import Dynamic, Fixed

Compute = Callable[[Path | None, AcceptedRequest], EmbeddingResult]
"""Embeds the file at a path. Blocking. The path is None where `reads_sources` is false."""


INSTANT = "instant-1"
_FULL_DIMENSION = 512
_EDGE = 1 << 16

ENGINES = ("signal", "models", "instant")


def reads_sources(settings: EmulatorSettings) -> bool:
    """Return whether the engine needs the media at all."""
    return settings.engine != "instant" or settings.instant_duration_sec is None


def compute_for(settings: EmulatorSettings) -> Compute:
    """Choose what computes vectors.

    Args:
        settings: `engine` is `instant`, or the name of an engine that runs in a process of its own.

    Returns:
        A blocking function that raises `SourceError` with the platform's words where the media cannot be embedded.

    Raises:
        ConfigurationError: If there is no such engine.
    """
    if settings.engine not in ENGINES and ":" not in settings.engine:
        raise ConfigurationError(
            f"There is no engine {settings.engine!r}; choose one of {', '.join(ENGINES)}, or package.module:attribute "
            "for one of your own."
        )
    if settings.engine not in ENGINES and not _is_found(settings.engine.partition(":")[0]):
        raise ConfigurationError(
            f"The engine {settings.engine!r} cannot be loaded: there is no such module. Put its folder on PYTHONPATH."
        )
    if settings.engine != "instant":
        return _isolated(settings)

    def instant(path: Path | None, request: AcceptedRequest) -> EmbeddingResult:
        if path is None:
            content = hashlib.blake2b(without_credentials(request.source).encode(), digest_size=16).digest()
        else:
            content = content_digest(path)
        duration = settings.instant_duration_sec
        if duration is None:
            duration = header_duration(path) if path is not None and request.timed else 0.0
        return embed_instant(content, duration, request)

    return instant


def _is_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _isolated(settings: EmulatorSettings) -> Compute:
    def isolated(path: Path | None, request: AcceptedRequest) -> EmbeddingResult:
        from embed_pipeline.emulator import engine

        if path is None:
            raise SourceError
        asked = engine.EmbedRequest(
            media_type=request.input_type,
            options=request.options,
            scopes=request.result_scopes if request.timed else request.scopes,
            embedding_types=request.types,
            start_sec=request.start_sec,
            end_sec=request.end_sec,
            segmentation=_cut(request.segmentation),
            dimension=request.dimension,
            model_name=request.model_name,
            uncertainty=request.uncertainty,
        )
        limits = engine.EngineLimits(
            duration_sec=settings.max_duration_sec,
        )
        try:
            result = engine.embed_isolated(path, asked, engine=settings.engine, limits=limits)
        except engine.MediaFailure as failure:
            raise SourceError(failure.message) from failure
        return EmbeddingResult(
            engine=result.engine,
            duration_sec=result.duration_sec if request.timed else None,
            labels=tuple(zip(result.options, result.scopes, strict=True)),
            start_sec=result.start_sec,
            end_sec=result.end_sec,
            vectors=result.vectors,
            uncertainty=result.uncertainty,
            missing=dict(result.missing),
        )

    return isolated


def _cut(segmentation: Segmentation | None) -> Fixed | Dynamic:
    from embed_pipeline.emulator import engine

    if segmentation is None:  # what has no length is not cut
        return engine.Dynamic(2.0)
    return (engine.Fixed if segmentation.strategy == "fixed" else engine.Dynamic)(segmentation.seconds)


def content_digest(path: Path) -> bytes:
    """Hash a file by its size, its first and its last 64 KiB: enough to distinguish files, and fast for large ones."""
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
        SourceError: If it is not a media file, or its header has no length.
    """
    try:
        duration = read_header(path).duration_sec
    except UnreadableMediaError:
        duration = None
    if duration is None:
        raise SourceError(UNPROCESSABLE)
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
        engine=INSTANT,
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
        engine=INSTANT,
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
