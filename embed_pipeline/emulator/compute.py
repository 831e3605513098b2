"""From an accepted request and a local file to the rows of a result: the bridge to the engines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from embed_pipeline.emulator.instant import content_digest, embed_instant, header_duration
from embed_pipeline.emulator.request import AcceptedRequest
from embed_pipeline.emulator.results import EmbeddingResult
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.emulator.sources import SourceError
from embed_pipeline.emulator.wire import without_query
from embed_pipeline.errors import ConfigurationError

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
    if settings.engine != "instant":
        return _isolated(settings)

    def instant(path: Path | None, request: AcceptedRequest) -> EmbeddingResult:
        if path is None:
            content = hashlib.blake2b(without_query(request.source).encode(), digest_size=16).digest()
        else:
            content = content_digest(path)
        duration = settings.instant_duration_sec
        if duration is None:
            duration = 0.0 if path is None else header_duration(path)
        return embed_instant(content, duration, request)

    return instant


def _isolated(settings: EmulatorSettings) -> Compute:
    def isolated(path: Path | None, request: AcceptedRequest) -> EmbeddingResult:
        from embed_pipeline.emulator import engine

        if path is None:
            raise SourceError
        cut = request.segmentation
        asked = engine.EmbedRequest(
            media_type=request.input_type,
            options=request.options,
            scopes=request.result_scopes,
            embedding_types=request.types,
            start_sec=request.start_sec,
            end_sec=request.end_sec,
            segmentation=engine.Fixed(cut.seconds) if cut.strategy == "fixed" else engine.Dynamic(cut.seconds),
            dimension=request.dimension,
            model_name=request.model_name,
            uncertainty=request.uncertainty,
        )
        limits = engine.EngineLimits(duration_sec=settings.max_duration_sec)
        try:
            result = engine.embed_isolated(path, asked, engine=settings.engine, limits=limits)
        except engine.MediaFailure as failure:
            raise SourceError(failure.message) from failure
        return EmbeddingResult(
            engine=result.engine,
            duration_sec=result.duration_sec,
            labels=tuple(zip(result.options, result.scopes, strict=True)),
            start_sec=result.start_sec,
            end_sec=result.end_sec,
            vectors=result.vectors,
            uncertainty=result.uncertainty,
            missing=dict(result.missing),
        )

    return isolated
