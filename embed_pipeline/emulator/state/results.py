"""The rows of a finished task, and how the emulator's open questions change them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules.request import AcceptedRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORT_TAIL_SEC = 2.0


@dataclass(frozen=True)
class EmbeddingResult:
    """Rows that an engine computed for one media file.

    Args:
        engine: The engine's name, which names the vector space: `signal-2`, `instant-1`.
        duration_sec: Length of the whole media file. None for what has no length.
        labels: Embedding option and scope (`clip` or `asset`) of each row; both empty for a combined query.
        start_sec: Float64, one per row; from the start of the file unless it was made relative. Not a number where
            there is no time.
        end_sec: Float64, one per row.
        vectors: Float32, rows by dimension, of unit length.
        uncertainty: Float32 like `vectors`, or None where it was not asked for.
        missing: Options the media cannot serve, and why.
    """

    engine: str
    duration_sec: float | None
    labels: tuple[tuple[str, str], ...]
    start_sec: NDArray[np.float64]
    end_sec: NDArray[np.float64]
    vectors: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None
    missing: dict[str, str]

    def take(self, rows: NDArray[np.intp]) -> EmbeddingResult:
        """Return the result with only the given rows, in the given order."""
        return replace(
            self,
            labels=tuple(self.labels[row] for row in rows),
            start_sec=self.start_sec[rows],
            end_sec=self.end_sec[rows],
            vectors=np.ascontiguousarray(self.vectors[rows]),
            uncertainty=None if self.uncertainty is None else np.ascontiguousarray(self.uncertainty[rows]),
        )


def as_answered(result: EmbeddingResult, request: AcceptedRequest, switches: Switches) -> EmbeddingResult:
    """Apply the switches that decide what rows a result holds and how their offsets count.

    Args:
        result: What the engine returned, with offsets from the start of the file.
        request: What was asked for.
        switches: How open questions are read.

    Returns:
        The result as the platform would hand it out.
    """
    if switches.drop_short_tail and request.fixed_sec is not None and result.labels:
        is_clip = np.array([scope == "clip" for _, scope in result.labels])
        # A file that is shorter than two seconds in all keeps its only segment.
        short = (result.end_sec - result.start_sec < SHORT_TAIL_SEC) & is_clip & (result.start_sec > 0)
        result = result.take(np.flatnonzero(~short))
    if switches.window_times == "relative" and request.start_sec:
        offset = request.start_sec
        result = replace(
            result,
            start_sec=np.maximum(result.start_sec - offset, 0.0),
            end_sec=np.maximum(result.end_sec - offset, 0.0),
        )
    return result


def with_effects(result: EmbeddingResult, effects: Mapping[str, Any], task_id: str) -> EmbeddingResult:
    """Leave out or reorder rows as fault rules want it; the same task always loses the same rows.

    Args:
        result: The rows.
        effects: What fault rules do to the task: `missing` and `shuffle`.
        task_id: Seeds the choice.
    """
    if not effects.get("missing") and not effects.get("shuffle"):
        return result
    draw = random.Random(task_id)  # noqa: S311
    rows = list(range(len(result.labels)))
    for loss in effects.get("missing", ()):
        rows = [row for row in rows if not (_concerned(result.labels[row], loss) and draw.random() < loss["fraction"])]
    if effects.get("shuffle"):
        draw.shuffle(rows)
    return result.take(np.array(rows, dtype=np.intp))


def _concerned(label: tuple[str, str], loss: Mapping[str, Any]) -> bool:
    option, scope = label
    return loss.get("option") in (None, option) and loss.get("scope") in (None, scope)
