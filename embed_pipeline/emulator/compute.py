"""From an accepted request and a local file to the rows of a result: the bridge to the engines."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from embed_pipeline.emulator.instant import content_digest, embed_instant, header_duration
from embed_pipeline.emulator.request import AcceptedRequest, Segmentation
from embed_pipeline.emulator.results import EmbeddingResult
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.emulator.sources import SourceError
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from embed_pipeline.emulator.engine import Dynamic, Fixed

Compute = Callable[[Path | None, AcceptedRequest], EmbeddingResult]
"""Embeds the file at a path. Blocking. The path is None where `reads_sources` says that no file is needed."""


ENGINES = ("signal", "models", "instant")


def reads_sources(settings: EmulatorSettings) -> bool:
    """Tell whether the engine needs the media at all."""
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
