"""Reasons why a media file cannot be embedded, in the platform's words."""

from __future__ import annotations

from typing import Final

# The values of `error.message` that the platform documents for a failed embedding task.
UNSTABLE: Final = "The embedding service is temporarily unstable. Please try again later."
TASK_FAILED: Final = "The embedding task failed. Please try again later."
NOT_COMPLETED: Final = "The embedding task could not complete processing."
REQUEST_INVALID: Final = "The embedding request was invalid."
TOO_LARGE: Final = "The media exceeds the maximum allowed size for embedding."
SOURCE_UNREACHABLE: Final = "failed to fetch or materialize source media"
CONTEXT_EXCEEDED: Final = "Content exceeds the model's context window."
UNPROCESSABLE: Final = "We could not process your media for embedding. Please verify the input file and try again."


class MediaFailure(Exception):  # noqa: N818 - the outcome of a task, not a mistake
    """A media file could not be embedded.

    Args:
        message: The platform's words, as an embedding task's `error.message` carries them.
        permanent: Whether trying the same file again would end the same way.
        detail: What happened here, for a log; never part of an answer.
    """

    def __init__(self, message: str, *, permanent: bool = True, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.permanent = permanent
        self.detail = detail


def too_long(duration_sec: float, limit_sec: float) -> MediaFailure:
    """Return the failure of a file that lasts longer than allowed, with the platform's figures.

    Args:
        duration_sec: How long the file (or the asked window) lasts, in seconds.
        limit_sec: How long it may last, in seconds.
    """
    return MediaFailure(
        f"Duration ({duration_sec:.1f} seconds) exceeds maximum limit of {limit_sec:.0f} seconds"
        f" ({limit_sec // 60:.0f} minutes)"
    )
