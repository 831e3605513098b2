"""Dividing a media file into segments, while it is still being read."""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import NamedTuple

from embed_pipeline.emulator.engine.request import Dynamic, Fixed

MAX_DYNAMIC_SEC = 10.0
"""A scene longer than this is divided into equal parts."""

MIN_TAIL_SEC = 1.0
"""A last fixed window shorter than this is merged into the one before it."""


class Span(NamedTuple):
    """A stretch of a media file, in seconds from its beginning."""

    start: float
    end: float


class SegmentPlanner:
    """Turns cuts into segments as soon as nothing later can change them.

    The segments tile the window without gap or overlap. Fixed windows have the asked length, but for the last one.
    A dynamic segment is never shorter than the minimum (unless the whole window is): a cut too close to the last one,
    or to the end, is passed over; and a scene longer than `MAX_DYNAMIC_SEC` is divided into equal parts (in a scene
    longer than twice that, parts of that length come first). How the cuts arrive makes no difference to the result.

    Args:
        segmentation: How to divide.
        start_sec: Where the window begins, in seconds.

    Attributes:
        origin: Where the window begins, in seconds.
    """

    def __init__(self, segmentation: Fixed | Dynamic, start_sec: float = 0.0) -> None:
        self.origin = self._start = start_sec
        self._fixed = segmentation.duration_sec if isinstance(segmentation, Fixed) else None
        if isinstance(segmentation, Dynamic):
            self._min = segmentation.min_duration_sec
            self._max = max(MAX_DYNAMIC_SEC, 2 * self._min)
        else:
            self._min = min(MIN_TAIL_SEC, segmentation.duration_sec / 2)
            self._max = math.inf
        self._windows = 0
        self._cuts: deque[float] = deque()

    def cut(self, time: float) -> None:
        """Take note of a change of scene at `time` seconds; times must not decrease. Fixed windows ignore it."""
        if self._fixed is None:
            self._cuts.append(time)

    def advance(self, clock: float) -> list[Span]:
        """Tell that every cut before `clock` is known.

        Args:
            clock: Seconds from the beginning of the file.

        Returns:
            The segments that this settles, in order.
        """
        spans: list[Span] = []
        while (bound := self._next_bound()) is not None and clock >= bound + self._min:
            self._take_bound(bound)
            spans.extend(self._divide(bound))
        return spans

    def finish(self, end_sec: float) -> list[Span]:
        """Tell that the window ends at `end_sec` seconds.

        Returns:
            The segments that are left, in order; none if the window is empty.
        """
        spans = self.advance(end_sec)
        if end_sec > self._start:
            spans.extend(self._divide(end_sec))
        return spans

    def _next_bound(self) -> float | None:
        if self._fixed is not None:
            return self.origin + (self._windows + 1) * self._fixed
        while self._cuts and self._cuts[0] - self._start < self._min:
            self._cuts.popleft()
        forced = self._start + 2 * self._max
        if self._cuts and self._cuts[0] < forced:
            return self._cuts[0]
        return forced

    def _take_bound(self, bound: float) -> None:
        if self._fixed is not None:
            self._windows += 1
        elif self._cuts and self._cuts[0] == bound:
            self._cuts.popleft()

    def _divide(self, end: float) -> list[Span]:
        start, self._start = self._start, end
        parts = 1 if math.isinf(self._max) else max(1, math.ceil((end - start) / self._max - 1e-9))
        bounds = [start + (end - start) * part / parts for part in range(parts)] + [end]
        return [Span(first, last) for first, last in itertools.pairwise(bounds)]


def plan(segmentation: Fixed | Dynamic, cuts: list[float], start_sec: float, end_sec: float) -> list[Span]:
    """The segments of a window whose cuts are all known.

    Args:
        segmentation: How to divide.
        cuts: When the scene changes, in increasing seconds.
        start_sec: Where the window begins.
        end_sec: Where it ends.
    """
    planner = SegmentPlanner(segmentation, start_sec)
    for time in cuts:
        planner.cut(time)
    return planner.finish(end_sec)
