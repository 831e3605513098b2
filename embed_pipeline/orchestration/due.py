"""Which media files are due for submission, judged from Dagster's index alone.

It may name a few too many (the submitting run decides exactly, and re-attaches what has a task), never too few.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.submission_plan import backoff
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
    terms: str | None = None,
    outdated: Collection[str] = (),
    waiting: Collection[str] = (),
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
        terms: A digest of what a content is refused under at present; a refusal under other terms does not count.
        outdated: The keys whose latest task was told under other embedding settings.
        waiting: The keys whose latest attempt failed too short a while ago to be followed by another.
    """
    due = []
    for key in partitions:
        version = media.get(key)
        if version is None or is_gone(version):
            continue
        outcome = outcomes.get(key)
        if key not in tasks or key in outdated or media_event_ids.get(key, 0) > task_event_ids.get(key, 0):
            if outcome is None or not outcome.refuses(version, terms):
                due.append(key)
        elif (
            outcome is not None
            and outcome.subject == tasks[key]
            and outcome.state in {OutcomeState.PASSING, OutcomeState.EXPIRED}
            and outcome.attempt < max_attempts
            and key not in waiting
        ):
            due.append(key)
    return due


def read_due(
    ledger: Ledger,
    order: Sequence[str],
    policy: PipelinePolicy,
    now: datetime,
    *,
    terms: str,
    observed: Mapping[str, str] | None = None,
    outdated: Collection[str] = (),
) -> list[str]:
    """Read from the ledger which media files are due, in key order.

    Args:
        ledger: What is known so far.
        order: Every key, in key order.
        policy: The team's choices.
        now: The time of the decision.
        terms: A digest of what a content is refused under at present.
        observed: Versions that are about to be told and count as told: the newest of all.
        outdated: The keys whose latest task was told under other embedding settings.
    """
    observed = observed or {}
    media_ids, task_ids = ledger.media_event_ids(), ledger.task_event_ids()
    newest = max(media_ids.values(), default=0) + max(task_ids.values(), default=0) + 1
    tasks, outcomes = ledger.task_versions(), ledger.outcomes()
    return due_for_submission(
        order,
        {**ledger.media_versions(), **observed},
        {**media_ids, **dict.fromkeys(observed, newest)},
        task_ids,
        tasks,
        outcomes,
        max_attempts=policy.max_attempts,
        terms=terms,
        outdated=outdated,
        waiting=_waiting(ledger, tasks, outcomes, policy, now),
    )


def _waiting(
    ledger: Ledger, tasks: Mapping[str, str], outcomes: Mapping[str, Outcome], policy: PipelinePolicy, now: datetime
) -> set[str]:
    """The keys whose backoff is not over. Only theirs are events that must be read; as a rule there are few."""
    passing = [
        key
        for key, outcome in outcomes.items()
        if outcome.state is OutcomeState.PASSING and outcome.subject == tasks.get(key)
    ]
    return {
        key
        for key, logged in ledger.logged_outcomes(passing).items()
        if now < logged.at + backoff(logged.outcome.attempt, policy.retry_backoff_sec)
    }
