"""Which media files are due for submission, judged from Dagster's index alone.

It may name a few too many (the submitting run decides exactly, and re-attaches what has a task), never too few.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from embed_pipeline.orchestration.versions import Outcome, OutcomeState, is_gone


def due_for_submission(
    partitions: Collection[str],
    media: Mapping[str, str],
    media_event_ids: Mapping[str, int],
    task_event_ids: Mapping[str, int],
    tasks: Mapping[str, str],
    outcomes: Mapping[str, Outcome],
    *,
    max_attempts: int,
) -> list[str]:
    """The keys that should have another task, in key order.

    Args:
        partitions: Every key, in key order.
        media: The version of each media file.
        media_event_ids: The storage id of the event that told it.
        task_event_ids: The storage id of the event that told its latest task.
        tasks: Its latest task's version.
        outcomes: Its latest outcome.
        max_attempts: Tasks for one content, at the most.
    """
    due = []
    for key in partitions:
        version = media.get(key)
        if version is None or is_gone(version):
            continue
        outcome = outcomes.get(key)
        if key not in tasks or media_event_ids.get(key, 0) > task_event_ids.get(key, 0):
            refused = outcome is not None and outcome.state is OutcomeState.REFUSED and outcome.subject == version
            if not refused:
                due.append(key)
        elif (
            outcome is not None
            and outcome.subject == tasks[key]
            and outcome.state in {OutcomeState.PASSING, OutcomeState.EXPIRED}
            and outcome.attempt < max_attempts
        ):
            due.append(key)
    return due
