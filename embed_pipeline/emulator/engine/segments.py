"""Segments of a media file, planned while it is being read: cuts of a film, pauses of a recording, and their spans."""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embed_pipeline.emulator.engine.features.sound import FRAME_SEC
from embed_pipeline.emulator.engine.request import Dynamic, Fixed, FloatArray

MAX_DYNAMIC_SEC = 10.0
"""A scene longer than this is divided into equal parts."""

MIN_TAIL_SEC = 1.0
"""A last fixed window shorter than this is merged into the one before it."""

THUMB_WIDTH, THUMB_HEIGHT = 64, 36
_CHUNK = 32
_REACH = 6
"""A cut stands out from this many frames on either side."""
_THRESHOLD = 0.18
_RATIO = 4.0
_FLAT_STD = 5.0
_PICTURE_STD = 9.0
_MAX_VALLEY_SEC = 3.0

Thumb = npt.NDArray[np.uint8]
_QUIET = 10 ** (-25 / 10)
_MIN_PAUSE_SEC = 0.3
_MEMORY_SEC = 10.0


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
        """Advance to `clock`: every cut before it is known.

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
        """End the window at `end_sec` seconds.

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
    """Return the segments of a window whose cuts are all known.

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


class CutDetector:
    """Finds changes of scene while the frames come in.

    Each frame differs from the one before by half the distance of their colour histograms (mean over the quadrants)
    and half the difference of their blocks. A cut is where that difference is at least 0.18, the greatest within six
    frames, and four times what surrounds it. A stretch of blank frames (black, white or of any one colour) between
    pictures is a cut in its middle: scenes that fade out and in differ little from any frame to the next.
    """

    def __init__(self) -> None:
        self._thumbs: list[Thumb] = []
        self._times: list[float] = []
        self._last: Thumb | None = None
        self._changes: list[tuple[float, float]] = []  # (time, difference to the frame before)
        self._examined = 0
        self._cuts: list[float] = []
        self._blank_since: float | None = None
        self._blank_is_scene = False
        self._seen_picture = False
        self.clock = 0.0

    def add(self, time: float, thumb: Thumb) -> None:
        """Take in the next frame.

        Args:
            time: When it is shown, in seconds; must not decrease.
            thumb: uint8 RGB of shape (36, 64, 3).
        """
        self._times.append(time)
        self._thumbs.append(thumb)
        if len(self._thumbs) >= _CHUNK:
            self._compare()

    def take(self, *, ended: bool = False) -> list[float]:
        """The cuts found since the last call, in increasing seconds; all before `clock` are known by then.

        Args:
            ended: Whether no frame will follow.
        """
        if ended:
            self._compare()
            self._examine(len(self._changes))
            self.clock = float("inf")
        self._cuts.sort()
        known = sum(time < self.clock for time in self._cuts)
        cuts, self._cuts = self._cuts[:known], self._cuts[known:]
        return cuts

    def _compare(self) -> None:
        if not self._thumbs:
            return
        thumbs = np.stack(self._thumbs if self._last is None else [self._last, *self._thumbs])
        self._last = self._thumbs[-1]
        times, self._times, self._thumbs = self._times, [], []
        differences = frame_differences(thumbs)
        if len(differences) < len(times):
            differences = np.concatenate([np.zeros(1, np.float32), differences])
        self._changes.extend(zip(times, differences.tolist(), strict=True))
        for time, std in zip(times, _spread(thumbs[-len(times) :]).tolist(), strict=True):
            self._watch_blank(time, std)
        self._examine(len(self._changes) - _REACH)

    def _watch_blank(self, time: float, std: float) -> None:
        if std < _FLAT_STD:
            if self._blank_since is None:
                self._blank_since, self._blank_is_scene = time, False
            elif not self._blank_is_scene and time - self._blank_since > _MAX_VALLEY_SEC:
                self._blank_is_scene = True
                if self._seen_picture:
                    self._cuts.append(self._blank_since)
        elif std > _PICTURE_STD:
            if self._blank_since is not None and self._blank_is_scene:
                self._cuts.append(time)
            elif self._blank_since is not None and self._seen_picture:
                self._cuts.append((self._blank_since + time) / 2)
            self._blank_since = None
            self._seen_picture = True

    def _examine(self, until: int) -> None:
        for index in range(self._examined, max(until, self._examined)):
            time, change = self._changes[index]
            if change < _THRESHOLD:
                continue
            around = [value for _, value in self._changes[max(0, index - _REACH) : index + _REACH + 1]]
            others = (sum(around) - change) / max(1, len(around) - 1)
            if change >= max(around) and change >= _RATIO * (others + 0.01):
                self._cuts.append(time)
        self._examined = max(until, self._examined)
        drop = max(0, self._examined - _REACH)
        del self._changes[:drop]
        self._examined -= drop
        if self._changes:
            settled = self._changes[min(self._examined, len(self._changes) - 1)][0]
            if self._blank_since is not None and not self._blank_is_scene:
                settled = min(settled, self._blank_since)
            self.clock = max(self.clock, settled)


def frame_differences(thumbs: Thumb) -> FloatArray:
    """Return the difference of each frame to the one before.

    Args:
        thumbs: uint8 RGB of shape (frames, 36, 64, 3).

    Returns:
        float32 of shape (frames - 1,), from 0 (the same) to 1 (nothing in common).
    """
    count = len(thumbs)
    if count < 2:
        return np.zeros(0, np.float32)
    # 64 colours (two bits per channel) in each of four quadrants.
    coarse = thumbs >> 6
    colours = (coarse[..., 0] << 4) | (coarse[..., 1] << 2) | coarse[..., 2]
    quadrant = (np.arange(THUMB_HEIGHT) >= THUMB_HEIGHT // 2)[:, None] * 2 + (
        np.arange(THUMB_WIDTH) >= THUMB_WIDTH // 2
    )[None, :]
    cells = colours.astype(np.int32) + 64 * quadrant.astype(np.int32) + 256 * np.arange(count)[:, None, None]
    histograms = np.bincount(cells.ravel(), minlength=256 * count).reshape(count, 256).astype(np.float32)
    histogram_distance = np.abs(np.diff(histograms, axis=0)).sum(axis=1) / (2 * THUMB_WIDTH * THUMB_HEIGHT)
    # Sums of slices: a fraction of what a mean over two axes costs.
    rows = thumbs.astype(np.uint16).reshape(count, THUMB_HEIGHT // 4, 4, THUMB_WIDTH * 3)
    tall = rows[:, :, 0] + rows[:, :, 1] + rows[:, :, 2] + rows[:, :, 3]
    wide = tall.reshape(count, THUMB_HEIGHT // 4, THUMB_WIDTH // 4, 4, 3)
    blocks = (wide[..., 0, :] + wide[..., 1, :] + wide[..., 2, :] + wide[..., 3, :]).reshape(count, -1).astype(np.int32)
    block_difference = np.abs(np.diff(blocks, axis=0)).mean(axis=1) / (16 * 255)
    return np.asarray((0.5 * histogram_distance + 0.5 * np.minimum(1.0, 4 * block_difference)), np.float32)


def _spread(thumbs: Thumb) -> FloatArray:
    """The standard deviation of each frame's green channel, which stands for its brightness."""
    green = thumbs[..., 1].reshape(len(thumbs), -1).astype(np.float32)
    mean = green @ np.full(green.shape[1], 1 / green.shape[1], np.float32)
    square = np.einsum("ij,ij->i", green, green) / np.float32(green.shape[1])
    return np.asarray(np.sqrt(np.maximum(square - mean**2, 0)), np.float32)


class PauseDetector:
    """Finds stretches at least 0.3 s long and 25 dB below what was loud within the last ten seconds or so.

    Args:
        start_sec: Where the recording begins, in seconds.

    Attributes:
        clock: Every pause whose middle lies before this is known.
    """

    def __init__(self, start_sec: float = 0.0) -> None:
        self.clock = start_sec
        self._loud = 0.0
        self._quiet_since: float | None = None
        self._pauses: list[float] = []

    def add(self, start: float, power: FloatArray) -> None:
        """Take in how loud the next moments are.

        Args:
            start: When the first of them is, in seconds.
            power: float32, one value per column of the spectrum.
        """
        fade = float(np.exp(-FRAME_SEC / _MEMORY_SEC))
        time = start
        for value in power.tolist():
            self._loud = max(value, self._loud * fade)
            if value < self._loud * _QUIET or value <= 0:
                if self._quiet_since is None:
                    self._quiet_since = time
            else:
                if self._quiet_since is not None and time - self._quiet_since >= _MIN_PAUSE_SEC:
                    self._pauses.append((self._quiet_since + time) / 2)
                self._quiet_since = None
            time += FRAME_SEC
        quiet = time if self._quiet_since is None else max(self._quiet_since, time - 2 * _MEMORY_SEC)
        self.clock = max(self.clock, quiet)

    def take(self, *, ended: bool = False) -> list[float]:
        """The middles of the pauses found since the last call, in increasing seconds.

        Args:
            ended: Whether nothing will follow.
        """
        if ended:
            self.clock = float("inf")
        pauses, self._pauses = self._pauses, []
        return pauses
