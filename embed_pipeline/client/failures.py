"""What the platform's words for a failed task mean for the question whether to try again."""

from __future__ import annotations

import re
from typing import Literal

FailureClass = Literal["transient", "permanent", "expired", "unclear"]

# Matched on parts of sentences, in this order: the platform words them freely and puts numbers into them.
_PARTS: tuple[tuple[str, FailureClass], ...] = (
    ("no longer available", "expired"),
    ("exceed", "permanent"),
    ("context window", "permanent"),
    ("request was invalid", "permanent"),
    ("could not process your media", "permanent"),
    ("verify the input", "permanent"),
    ("temporarily unstable", "transient"),
    ("failed to fetch or materialize", "transient"),
    ("could not complete processing", "unclear"),
    ("try again later", "transient"),
    ("try later", "transient"),
)
_SPACE = re.compile(r"\s+")


def classify_failure(message: str | None) -> FailureClass:
    """Whether a failed task is worth a new one.

    Args:
        message: ``error.message`` of a failed task, as the platform wrote it.

    Returns:
        ``transient`` (a new task may succeed; where the source could not be fetched, with a fresh URL), ``permanent``
        (this media file will fail again), ``expired`` (the result is gone, the source must be embedded again), or
        ``unclear`` (unknown words: worth one more try).
    """
    text = _SPACE.sub(" ", message or "").lower()
    return next((kind for part, kind in _PARTS if part in text), "unclear")
