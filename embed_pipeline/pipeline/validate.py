"""Validation of one media file's segments: pure functions, each returns a sentence that says what to do, or nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_pipeline.pipeline.settings import EmbeddingSettings, Segmentation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embed_pipeline.dataset import MediaSegments

# Offsets come rounded, and a container's duration is often a little off.
_TOLERANCE_SEC = 0.5
# Vectors of one model are of much the same length; one far from all others was not made like them.
_NORM_FACTOR = 20.0
_EMBED_ANEW = "Materialize embedding_tasks for it with force to embed it anew"


@dataclass(frozen=True, slots=True)
class Problems:
    """Problems of one media file's segments; None where there is none.

    Args:
        vectors: About lengths and norms of the vectors.
        offsets: About order, gaps and overlaps of the segments.
        options: About what was asked for and is not there.
        coverage: About how much of the media file the segments cover.
    """

    vectors: str | None = None
    offsets: str | None = None
    options: str | None = None
    coverage: str | None = None

    def as_dict(self) -> dict[str, str]:
        """Return the problems that there are, by kind."""
        values = {name: getattr(self, name) for name in ("vectors", "offsets", "options", "coverage")}
        return {name: problem for name, problem in values.items() if problem is not None}


def validate(segments: MediaSegments, settings: EmbeddingSettings, *, length_sec: float | None = None) -> Problems:
    """Compare one media file's segments with what was asked for.

    Args:
        segments: The segments, as they were written.
        settings: What they were to be embedded with.
        length_sec: The length of the media file as its own data tell, in seconds; None where it is not known.
    """
    return Problems(
        vectors=vector_problem(segments, settings.embedding_dimension),
        offsets=offset_problem(segments, settings),
        options=option_problem(segments, settings),
        coverage=coverage_problem(segments, settings, length_sec),
    )


def unfit(segments: MediaSegments, settings: EmbeddingSettings) -> str | None:
    """Return why segments are not an answer to what was asked for, so that they are not written; None where they are.

    Args:
        segments: The segments.
        settings: What was asked for.
    """
    if segments.dimension != settings.embedding_dimension:
        return (
            f"The result has vectors of {segments.dimension} numbers, and {settings.embedding_dimension} were asked "
            "for. It was not written. Retry it by hand; if it stays so, tell the platform."
        )
    asked = {*settings.options(segments.media_type), *(["fused"] if "fused_embedding" in settings.types else [])}
    scopes = {*settings.scopes, *(["clip"] if "local" in settings.scopes else [])}
    for what, given, wanted in (
        ("option", set(segments.embedding_option), asked),
        ("scope", set(segments.embedding_scope), scopes),
    ):
        if other := sorted(given - wanted):
            return (
                f"The result has the {what} {', '.join(other)}, which was not asked for ({', '.join(sorted(wanted))} "
                "was). It was not written. Retry it by hand; if it stays so, tell the platform."
            )
    return None


def coverage_problem(segments: MediaSegments, settings: EmbeddingSettings, length_sec: float | None) -> str | None:
    """Return how much of a media file its result leaves out; None where it covers the file.

    A result that is shorter tells of a file that was cut off or is damaged, or of parts that could not be decoded.
    """
    covered = segments.duration_sec
    if covered is None or length_sec is None or settings.start_sec is not None or settings.end_sec is not None:
        return None
    # A last frame or packet may be a second long.
    if covered >= length_sec - max(1.0, 0.02 * length_sec):
        return None
    return (
        f"the result covers {covered:.1f} s of {length_sec:.1f} s. The file may have been cut off while it was copied, "
        "or part of it cannot be decoded: play it to its end, and replace it."
    )


def vector_problem(segments: MediaSegments, dimension: int) -> str | None:
    """Check that the vectors are finite, as long as was asked for, and of norms that belong together."""
    import numpy as np

    if segments.dimension != dimension:
        return (
            f"its vectors have {segments.dimension} numbers where the settings ask for {dimension}. Check "
            f"embedding_dimension; then {_EMBED_ANEW.lower()}."
        )
    norms = np.linalg.norm(segments.embedding, axis=1)
    for bad, what in (
        (~np.isfinite(norms), "are not finite"),
        (norms == 0, "are zero, and have no direction to compare"),
        (~_near_the_median(norms), f"have norms more than {_NORM_FACTOR:.0f} times off the median"),
    ):
        if bad.any():
            return f"{_places(segments, bad)} {what}. {_EMBED_ANEW}; if it stays so, tell the platform."
    return None


def offset_problem(segments: MediaSegments, settings: EmbeddingSettings) -> str | None:
    """Check that the segments of each option follow each other within the media file, as their segmentation explains.

    Speech has gaps, so those of transcription are not judged. A tail shorter than a segment may be left out.
    """
    segmentation = settings.video_segmentation if segments.media_type == "video" else settings.audio_segmentation
    start, end = settings.start_sec or 0.0, settings.end_sec
    duration = segments.duration_sec
    if duration is not None:
        end = duration if end is None else min(end, duration)
    for problem in _offset_problems(segments, segmentation, start, end, duration):
        return f"{problem}. {_EMBED_ANEW}; if it stays so, tell the platform."
    return None


def option_problem(segments: MediaSegments, settings: EmbeddingSettings) -> str | None:
    """Check that everything that was asked for is there, or is absent for a reason that lies in the media.

    A file may have no sound and nobody may speak in it; a video without pictures, or a vector for parts without one
    for the whole, is no property of a file.
    """
    there = set(zip(segments.embedding_option, segments.embedding_scope, strict=True))
    options, scopes = {option for option, _ in there}, {scope for _, scope in there}
    asked = set(settings.options(segments.media_type))
    missing = []
    if "separate_embedding" in settings.types or len(asked) == 1:
        if "visual" in asked - options and segments.media_type == "video":
            missing.append("visual, though it is a video")
        if "transcription" in options and "audio" in asked - options:
            missing.append("audio, though there is speech")
    if "fused_embedding" in settings.types and len(asked) > 1 and "fused" not in options:
        missing.append("the fused embedding")
    missing += [f"the scope {scope}" for scope in settings.scopes if scope not in scopes]
    missing += [
        f"the scope {scope} of {option}"
        for option in sorted(options)
        for scope in settings.scopes
        if scope in scopes and (option, scope) not in there
    ]
    if not missing:
        return None
    return f"it lacks {', '.join(missing)}. {_EMBED_ANEW}, or leave that out of the settings."


def _offset_problems(
    segments: MediaSegments, segmentation: Segmentation, start: float, end: float | None, duration: float | None
) -> Iterator[str]:
    import numpy as np

    options = np.asarray(segments.embedding_option)
    clips = np.asarray(segments.embedding_scope) == "clip"
    if duration is not None and (late := segments.end_sec > duration + _TOLERANCE_SEC).any():
        yield f"{_places(segments, late)} end after the file does, at {clock(duration)}"
    for option in sorted(set(segments.embedding_option)):
        rows = np.flatnonzero((options == option) & clips)
        if rows.size == 0:
            continue
        rows = rows[np.argsort(segments.start_sec[rows], kind="stable")]
        spans = list(zip(segments.start_sec[rows].tolist(), segments.end_sec[rows].tolist(), strict=True))
        for (_, before), (after, _) in itertools.pairwise(spans):
            if after < before - _TOLERANCE_SEC:
                yield f"segments of {option} overlap from {after:.2f} s to {before:.2f} s"
            if after > before + _TOLERANCE_SEC and option != "transcription":
                yield f"there is no segment of {option} from {before:.2f} s to {after:.2f} s"
        if option == "transcription":
            continue
        if spans[0][0] > start + segmentation.seconds:
            yield f"segments of {option} begin only at {spans[0][0]:.2f} s"
        if end is not None and spans[-1][1] < end - segmentation.seconds - _TOLERANCE_SEC:
            yield f"segments of {option} end at {spans[-1][1]:.2f} s, long before the file does, at {end:.2f} s"


def _near_the_median(norms: NDArray[np.float32]) -> NDArray[np.bool_]:
    import numpy as np

    median = float(np.median(norms))
    near: NDArray[np.bool_] = (norms >= median / _NORM_FACTOR) & (norms <= median * _NORM_FACTOR)
    return near


def _places(segments: MediaSegments, bad: NDArray[np.bool_]) -> str:
    import numpy as np

    row = int(np.argmax(bad))
    place = f"{segments.embedding_option[row]} {segments.start_sec[row]:.2f}-{segments.end_sec[row]:.2f} s"
    return f"{int(bad.sum())} of {len(segments)} segments, first {place},"


def clock(seconds: float) -> str:
    """Return a time offset as people read it: `1:23:45`, `3:07`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
