"""The one state that every media file is in."""

from __future__ import annotations

from enum import Enum

from embed_pipeline.orchestration.versions import Outcome, OutcomeState, is_gone


class MediaState(Enum):
    """What became of a media file; each is in exactly one state."""

    UNSUBMITTED = "unsubmitted"
    PROCESSING = "processing"
    EMBEDDED = "embedded"
    FAILED = "failed"
    EXPIRED = "expired"
    GONE = "gone"


def state_of(
    *, media: str | None, task: str | None, embedded: str | None, outcome: Outcome | None, changed_since_task: bool
) -> MediaState:
    """The state of a media file, from the versions that the ledger holds.

    Args:
        media: Its fingerprint, its version as gone, or None where discovery has not seen it.
        task: Its latest task's version.
        embedded: The version of the task whose segments are in the dataset.
        outcome: The latest outcome that was logged for it.
        changed_since_task: Whether its fingerprint was told after its latest task.
    """
    if media is not None and is_gone(media):
        return MediaState.GONE
    if task is None or changed_since_task:
        # A refusal is about the content; a task made for the same content since then overrules it.
        refused = outcome is not None and outcome.refuses(media)
        return MediaState.FAILED if refused else MediaState.UNSUBMITTED
    if embedded == task:
        return MediaState.EMBEDDED
    if outcome is not None and outcome.subject == task:
        return MediaState.EXPIRED if outcome.state is OutcomeState.EXPIRED else MediaState.FAILED
    return MediaState.PROCESSING
