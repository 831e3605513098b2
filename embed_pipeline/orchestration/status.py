"""What became of each media file, in words: the rows behind ``embed-pipeline status`` and the demo's table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from embed_pipeline.orchestration.day_budget import DayBudget, read_day_budget
from embed_pipeline.orchestration.health import expiring_results, stuck_tasks, tried_again_by_itself
from embed_pipeline.orchestration.ledger import Ledger, LoggedOutcome
from embed_pipeline.orchestration.left_for_later import read_left_for_later
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.states import MediaState


@dataclass(frozen=True, slots=True)
class MediaStatus:
    """One media file's state.

    Args:
        media: The partition key.
        state: The one state it is in.
        reason: Why it failed or expired, and whether it is tried again by itself; what an unsubmitted one waits for,
            as the run that left it for later said, or where that is known of them all; that its task is processing for
            too long, or its result about to expire; empty otherwise.
        task_id: Its latest task.
        attempt: Which attempt on its content that is.
        segments: Rows in the dataset.
        minutes: Its length in minutes, where known.
        uri: Where its segments are.
    """

    media: str
    state: MediaState
    reason: str = ""
    task_id: str | None = None
    attempt: int | None = None
    segments: int | None = None
    minutes: float | None = None
    uri: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        return {**asdict(self), "state": self.state.value}


def read_statuses(
    instance: dg.DagsterInstance, names: PipelineNames, policy: PipelinePolicy | None = None
) -> list[MediaStatus]:
    """The status of every media file that has a partition, in key order.

    Args:
        instance: The Dagster instance.
        names: The pipeline's names.
        policy: The team's choices, from which follows what a file waits for; None to tell what was logged alone.
    """
    ledger = Ledger(instance, names)
    states = ledger.states()
    tasks = ledger.latest_tasks([key for key, state in states.items() if state is not MediaState.UNSUBMITTED])
    results = ledger.latest_results([key for key, state in states.items() if state in _WITH_RESULT])
    troubled = [key for key, state in states.items() if state in {MediaState.FAILED, MediaState.EXPIRED}]
    outcomes = ledger.logged_outcomes(troubled)
    reasons = {key: _why(logged, policy) for key, logged in outcomes.items()}
    unsubmitted = [key for key, state in states.items() if state is MediaState.UNSUBMITTED]
    if policy is not None:
        now = datetime.now(UTC)
        if unsubmitted:
            waits_for = _what_holds_all(policy, read_day_budget(ledger, policy, now))
            reasons |= dict.fromkeys(unsubmitted, waits_for)
        pending = {key: task for key, task in tasks.items() if states[key] is MediaState.PROCESSING}
        reasons |= stuck_tasks(pending, after_sec=policy.stuck_after_sec, now=now)
        # What is lost if nobody acts comes before why.
        reasons |= expiring_results(
            pending, lifetime_sec=policy.result_lifetime_sec, alarm_sec=policy.expiry_alarm_sec, now=now
        )
    # What a run said of a file is nearer to it than what holds of them all.
    reasons |= read_left_for_later(instance, names, unsubmitted, list(states), ledger.media_event_ids(unsubmitted))
    rows = []
    for key, state in states.items():
        task = tasks.get(key)
        result: Mapping[str, Any] = results[key].metadata if key in results else {}
        rows.append(
            MediaStatus(
                media=key,
                state=state,
                reason=reasons.get(key, ""),
                task_id=task.task_id if task else None,
                attempt=task.attempt if task else None,
                segments=result.get("embed_pipeline/segments"),
                minutes=result.get("embed_pipeline/minutes", task.minutes if task else None),
                uri=result.get("dagster/uri"),
            )
        )
    return rows


def counts(rows: Iterable[MediaStatus]) -> dict[str, int]:
    """How many media files are in each state; every state is named."""
    found = Counter(row.state for row in rows)
    return {state.value: found.get(state, 0) for state in MediaState}


def _why(logged: LoggedOutcome, policy: PipelinePolicy | None) -> str:
    if policy is None or not tried_again_by_itself(
        logged.outcome, max_attempts=policy.max_attempts, submit_automatically=policy.submit_automatically
    ):
        return logged.message
    attempts = f"attempt {logged.outcome.attempt} of {policy.max_attempts}"
    return f"{logged.message} ({attempts}; it is tried again by itself)"


def _what_holds_all(policy: PipelinePolicy, budget: DayBudget) -> str:
    """What keeps every file that is due from its task; empty where it is only a matter of the next tick."""
    # What is left of it may be too little for any of them; how long they are is not known here.
    if budget.limit is not None and budget.spent > 0:
        return f"waits for its turn: {budget}"
    if not policy.submit_automatically:
        return "waits for the schedule, or for somebody to submit it: submit_automatically is off"
    return ""


_WITH_RESULT = {MediaState.EMBEDDED, MediaState.GONE}
