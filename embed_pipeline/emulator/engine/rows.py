"""From the rows of each option to the answer that was asked for."""

from __future__ import annotations

import numpy as np

from embed_pipeline.emulator.engine.projection import project, shorten, unit
from embed_pipeline.emulator.engine.request import EmbedRequest, EngineResult
from embed_pipeline.emulator.engine.segments import Span
from embed_pipeline.emulator.engine.track import Row, whole

_FUSED_SEEDS = {"visual": 0x46555631, "audio": 0x46555341, "transcription": 0x46555354}


def fuse(tracks: dict[str, list[Row]]) -> list[Row]:
    """One row per segment over all options that have it, each turned its own way so that they cannot cancel out.

    Args:
        tracks: For each option its rows.
    """
    spans: dict[Span, list[tuple[str, Row]]] = {}
    for option, rows in tracks.items():
        for row in rows:
            spans.setdefault(row.span, []).append((option, row))
    fused = []
    for span, parts in sorted(spans.items()):
        turned = [project(row.vector, _FUSED_SEEDS[option]) for option, row in parts]
        vector = unit(np.asarray(np.sum(turned, axis=0), np.float32))
        spread = np.asarray(np.mean([row.spread for _, row in parts], axis=0), np.float32)
        fused.append(Row(span, vector, spread))
    return fused


def answer(
    request: EmbedRequest,
    tracks: dict[str, list[Row]],
    missing: dict[str, str],
    window: Span,
    duration_sec: float,
    engine: str,
) -> EngineResult:
    """Put the rows into the form that was asked for.

    Args:
        request: What was asked for: scopes, types, dimension, uncertainty.
        tracks: For each option that could be computed its rows, in order of time.
        missing: For each other option why not.
        window: What was embedded, in seconds of the file.
        duration_sec: How long the file lasts.
        engine: The engine's name and version.
    """
    chosen: dict[str, list[Row]] = {}
    if "separate_embedding" in request.embedding_types:
        chosen.update(tracks)
    if "fused_embedding" in request.embedding_types:
        chosen["fused"] = fuse(tracks)
    table: list[tuple[str, str, Row]] = []
    for option in sorted(chosen):
        rows = chosen[option]
        if "asset" in request.scopes and rows:
            table.append((option, "asset", whole(rows, window)))
        if "clip" in request.scopes:
            table.extend((option, "clip", row) for row in rows)
    vectors = np.stack([row.vector for _, _, row in table]) if table else np.zeros((0, 512), np.float32)
    spreads = np.stack([row.spread for _, _, row in table]) if table else np.zeros((0, 512), np.float32)
    return EngineResult(
        duration_sec=duration_sec,
        options=tuple(option for option, _, _ in table),
        scopes=tuple(scope for _, scope, _ in table),
        start_sec=np.array([row.span.start for _, _, row in table], np.float64),
        end_sec=np.array([row.span.end for _, _, row in table], np.float64),
        vectors=shorten(vectors, request.dimension),
        uncertainty=np.ascontiguousarray(spreads[:, : request.dimension]) if request.uncertainty else None,
        missing=missing,
        engine=engine,
    )
