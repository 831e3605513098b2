"""Features in order of time, of which only what a segment still needs is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from embed_pipeline.emulator.engine.request import FloatArray
from embed_pipeline.emulator.engine.segments import Span


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
        """Whether nothing was ever added."""
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
