"""Rows of a result: features collected per segment, embedded, fused, and put into the requested form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from embed_pipeline.emulator.engine.features.projection import project, shorten, unit
from embed_pipeline.emulator.engine.request import EmbedRequest, EngineResult, FloatArray
from embed_pipeline.emulator.engine.segments import Span

_FUSED_SEEDS = {"visual": 0x46555631, "audio": 0x46555341, "transcription": 0x46555354}


@dataclass(frozen=True)
class Row:
    """The vector of one segment.

    Args:
        span: The segment.
        vector: float32 of shape (512,), of unit length.
        spread: How far the halves of the segment are from each other, value by value: float32 of shape (512,).
    """

    span: Span
    vector: FloatArray
    spread: FloatArray


@dataclass
class Track:
    """The features of one option, waiting for the segments to be settled.

    Args:
        embed: Turns the features of a segment, float32 of shape (n, features), into its vector.
        hold: Whether the last feature goes on until the next one, as a picture on a screen does. If not, a segment
            without features is embedded from none.
        uncertain: Whether to measure the spread.
    """

    embed: Callable[[FloatArray], FloatArray]
    hold: bool
    uncertain: bool
    clock: float = 0.0
    rows: list[Row] = field(default_factory=list)
    _times: list[float] = field(default_factory=list)
    _features: list[FloatArray] = field(default_factory=list)
    _waiting: list[Span] = field(default_factory=list)
    _width: int | None = None

    @property
    def empty(self) -> bool:
        """True if nothing was ever added."""
        return self._width is None

    def add(self, start: float, step: float, features: FloatArray) -> None:
        """Add features of consecutive moments.

        Args:
            start: When the first one is, in seconds.
            step: The seconds from one to the next.
            features: float32 of shape (n, features).
        """
        if not len(features):
            return
        self._width = features.shape[1]
        self._times.append(start)
        self._features.append(features)
        self._steps = step
        self.clock = max(self.clock, start + step * len(features))

    def settle(self, spans: list[Span]) -> None:
        """Take note of segments, in order, and embed those whose features have all come."""
        self._waiting.extend(spans)
        done = 0
        while done < len(self._waiting) and self._waiting[done].end <= self.clock:
            self._embed(self._waiting[done])
            done += 1
        del self._waiting[:done]

    def finish(self) -> None:
        """Embed the segments that are left: no features will follow."""
        for span in self._waiting:
            self._embed(span)
        self._waiting.clear()

    def _embed(self, span: Span) -> None:
        if self._width is None:
            return
        features = self._take(span)
        vector = self.embed(features)
        spread = np.zeros_like(vector)
        if self.uncertain and len(features) > 1:
            first, second = features[: len(features) // 2], features[len(features) // 2 :]
            spread = np.abs(self.embed(first) - self.embed(second)) / 2
        self.rows.append(Row(span, vector, spread))

    def _take(self, span: Span) -> FloatArray:
        chosen: list[FloatArray] = []
        last: FloatArray | None = None
        for start, features in zip(self._times, self._features, strict=True):
            if start >= span.end:
                break
            times = start + self._steps * np.arange(len(features))
            inside = (times >= span.start - 1e-9) & (times < span.end - 1e-9)
            if inside.any():
                chosen.append(features[inside])
            before = int(np.searchsorted(times, span.end - 1e-9))
            if before:
                last = features[before - 1 : before]
        keep = 0
        while keep + 1 < len(self._times) and self._times[keep + 1] <= span.end:
            keep += 1
        del self._times[:keep], self._features[:keep]
        if chosen:
            return np.concatenate(chosen)
        if self.hold and last is not None:
            return last
        if self.hold and self._features:
            return self._features[0][:1]
        return np.zeros((0, self._width or 0), np.float32)


def whole(rows: list[Row], span: Span) -> Row:
    """One row for all segments together: the mean of their vectors by duration.

    Args:
        rows: The rows of the segments, at least one.
        span: What they cover.
    """
    weights = np.array([max(row.span.end - row.span.start, 1e-6) for row in rows], np.float64)
    vectors = np.stack([row.vector for row in rows]).astype(np.float64)
    mean = (weights[:, None] * vectors).sum(axis=0) / weights.sum()
    length = float(np.linalg.norm(mean))
    vector = (mean / length if length > 1e-9 else vectors[0]).astype(np.float32)
    spread = np.sqrt((weights[:, None] * (vectors - mean) ** 2).sum(axis=0) / weights.sum()).astype(np.float32)
    return Row(span, vector, spread)


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
