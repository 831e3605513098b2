"""What is wrong with the tasks of a library: pure judgements by partition key, each a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.states import MediaState
from embed_pipeline.orchestration.versions import Outcome, OutcomeState


def stuck_tasks(pending: Mapping[str, TaskRecord], *, after_sec: float, now: datetime) -> dict[str, str]:
    """The tasks that have been pending for longer than they should.

    Args:
        pending: The tasks without a result and without an outcome.
        after_sec: Longer than so many seconds is too long.
        now: The time of the judgement.
    """
    return {
        key: (
            f"task {task.task_id} has been processing for {_hours(now - task.submitted_at)}. Look whether "
            "embedding_ready_sensor is on and its ticks succeed; then ask the platform about the task, or materialize "
            "embedding_tasks for this file with force."
        )
        for key, task in pending.items()
        if now - task.submitted_at > timedelta(seconds=after_sec)
    }


def expiring_results(
    pending: Mapping[str, TaskRecord], *, lifetime_sec: float, alarm_sec: float, now: datetime
) -> dict[str, str]:
    """The tasks whose results the platform will soon forget, uncollected.

    Args:
        pending: The tasks without a result and without an outcome.
        lifetime_sec: How long the platform keeps a result, in seconds.
        alarm_sec: So long before that it is worth an alarm, in seconds.
        now: The time of the judgement.
    """
    problems = {}
    for key, task in pending.items():
        left = task.submitted_at + timedelta(seconds=lifetime_sec) - now
        if left < timedelta(seconds=alarm_sec):
            when = f"expires in {_hours(left)}" if left > timedelta(0) else "may have expired"
            problems[key] = (
                f"the result of task {task.task_id} {when}, and its minutes would be paid again. Materialize "
                "segment_embeddings for this file now, and look why embedding_ready_sensor has not asked for it."
            )
    return problems


def tried_again_by_itself(outcome: Outcome, *, max_attempts: int, submit_automatically: bool) -> bool:
    """Whether another task follows this outcome without anybody asking for it.

    Args:
        outcome: Why the latest task gave no result.
        max_attempts: Tasks for one content, at the most.
        submit_automatically: Whether discovery submits what is due.
    """
    passes = outcome.state in {OutcomeState.PASSING, OutcomeState.EXPIRED}
    return submit_automatically and passes and outcome.attempt < max_attempts


def failed_files(
    states: Mapping[str, MediaState], words: Mapping[str, str], tried_again: Collection[str] = ()
) -> dict[str, str]:
    """The media files without segments for a reason that does not pass by itself.

    Args:
        states: The state of every media file.
        words: The words of whoever refused it, by partition key.
        tried_again: The media files that get another task without anybody asking for it.
    """
    todo = {
        MediaState.FAILED: "To try again, materialize embedding_tasks for it with retry_failed.",
        MediaState.EXPIRED: "To embed it again, materialize embedding_tasks for it with retry_failed.",
    }
    return {
        key: f"{state.value}: {_sentence(words.get(key) or 'no reason was given')} {todo[state]}"
        for key, state in states.items()
        if state in todo and key not in tried_again
    }


def mixed_spaces(media_by_space: Mapping[str, int]) -> str | None:
    """Whether the table mixes vectors that cannot be compared.

    Args:
        media_by_space: How many media files' results the table holds of each vector space.
    """
    if len(media_by_space) < 2:
        return None
    counts = ", ".join(f"{space} ({count} media files)" for space, count in sorted(media_by_space.items()))
    return (
        f"The table holds more than one vector space: {counts}. Vectors of different spaces cannot be compared; name "
        "one of them when you read, or materialize embedding_tasks for the files of the other one."
    )


def _sentence(words: str) -> str:
    words = words.strip()
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _hours(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.0f} hours" if hours >= 2 else f"{max(hours, 0) * 60:.0f} minutes"
