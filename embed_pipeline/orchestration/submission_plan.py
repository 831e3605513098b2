"""Which media files get a new embedding task and which are served by one that exists: decided over plain values.

A task costs money, so a new one is created only where no task can serve: not this file's own, not one made for the same
content under another name, not one that a run which died left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.versions import Outcome, OutcomeState


class Action(Enum):
    """What a submitting run does with a media file."""

    SUBMIT = "submit"
    REATTACH = "re-attach"
    FOLLOW = "follow"  # the same content is submitted under another name in this run
    HOLD = "hold"  # not now: a limit or a backoff
    REFUSE = "refuse"  # never with this content


@dataclass(frozen=True, slots=True)
class Candidate:
    """A media file that a run was asked to submit.

    Args:
        key: Its partition key.
        fingerprint: Its content.
        settings_digest: What it is to be embedded with.
        minutes: Minutes of it that would be embedded; None where its length is not known.
        duration_sec: Its whole length in seconds, where that is known and differs.
    """

    key: str
    fingerprint: str
    settings_digest: str
    minutes: float | None
    duration_sec: float | None = None

    @property
    def length_sec(self) -> float | None:
        """Its whole length in seconds; None where it is not known."""
        if self.duration_sec is not None or self.minutes is None:
            return self.duration_sec
        return self.minutes * 60


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with one candidate, and why.

    Args:
        candidate: The media file.
        action: What is done.
        reason: Why, for people.
        task: The task that serves it, where it is re-attached.
        attempt: The number of the attempt, where it is submitted.
        follows: The partition key whose new task will serve it, where it follows.
    """

    candidate: Candidate
    action: Action
    reason: str
    task: TaskRecord | None = None
    attempt: int = 1
    follows: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows that bears on a decision.

    Args:
        records: Every task made for the candidates' contents, under whatever name, latest first.
        outcomes: The outcomes of tasks that give no result, by the task's version, with the time they were logged.
        embedded: The versions of the tasks whose segments are in the dataset.
        platform: The platform that is submitted to.
        root_run_id: The run that decides, or the first of its re-executions.
    """

    records: Sequence[TaskRecord]
    outcomes: Mapping[str, tuple[Outcome, datetime]]
    embedded: frozenset[str]
    platform: str
    root_run_id: str


def plan_submissions(
    candidates: Sequence[Candidate],
    known: Known,
    policy: PipelinePolicy,
    *,
    now: datetime,
    force: bool = False,
    retry_failed: bool = False,
    minutes_spent_in_run: float = 0.0,
    minutes_left_today: float | None = None,
) -> list[Decision]:
    """Decide what is done with each candidate, in their order.

    Args:
        candidates: The media files that the run was asked for.
        known: What the ledger knows.
        policy: The team's choices.
        now: The time of the decision.
        force: Submit even what a task serves already.
        retry_failed: Submit again what failed or expired for good.
        minutes_spent_in_run: Media minutes that the same run has submitted before.
        minutes_left_today: Media minutes that may still be submitted today; None for no limit.
    """
    decisions: list[Decision] = []
    submitted: dict[tuple[str, str], str] = {}
    per_run = policy.max_minutes_per_run
    budget = _Budget(None if per_run is None else max(per_run - minutes_spent_in_run, 0.0), minutes_left_today)
    by_content: dict[tuple[str, str], list[TaskRecord]] = {}
    for record in sorted(known.records, key=lambda record: record.storage_id or 0, reverse=True):
        if record.platform == known.platform:
            by_content.setdefault((record.fingerprint, record.settings_digest), []).append(record)
    for candidate in candidates:
        content = (candidate.fingerprint, candidate.settings_digest)
        if content in submitted:
            decisions.append(
                Decision(
                    candidate, Action.FOLLOW, f"the same content as {submitted[content]}", follows=submitted[content]
                )
            )
            continue
        decision = _decide(candidate, by_content.get(content, []), known, policy, now, force, retry_failed)
        if decision.action is Action.SUBMIT:
            decision = _within_limits(decision, policy, budget)
            if decision.action is Action.SUBMIT:
                submitted[content] = candidate.key
        decisions.append(decision)
    return decisions


def _decide(
    candidate: Candidate,
    records: Sequence[TaskRecord],
    known: Known,
    policy: PipelinePolicy,
    now: datetime,
    force: bool,
    retry_failed: bool,
) -> Decision:
    if force or retry_failed:
        # A run that was killed and re-executed finds what it made before it died; what failed since serves nobody.
        mine = [
            record
            for record in records
            if record.root_run_id == known.root_run_id
            and record.how != "re-attached"
            and record.version not in known.outcomes
        ]
        if mine:
            return Decision(candidate, Action.REATTACH, "submitted by this run before", task=mine[0])
    if force:
        return Decision(candidate, Action.SUBMIT, "asked for by force")
    for record in records:
        if record.version in known.outcomes:
            # Also of one that is embedded under another name: the dataset could not give it to this one.
            continue
        if record.version in known.embedded:
            return Decision(candidate, Action.REATTACH, "embedded already", task=record)
        if now - record.submitted_at < _lifetime(policy):
            return Decision(candidate, Action.REATTACH, "its task is under way", task=record)
    if not records:
        return Decision(candidate, Action.SUBMIT, "new content")
    # A later attempt may have a lower number: trying again by hand begins to count anew.
    latest = max(records, key=lambda record: record.submitted_at)
    outcome, at = known.outcomes.get(latest.version) or (
        Outcome(OutcomeState.EXPIRED, latest.attempt, latest.version),
        latest.submitted_at + _lifetime(policy),
    )
    if retry_failed:
        return Decision(candidate, Action.SUBMIT, f"retried by hand after it {outcome.state.value}")
    if outcome.state is OutcomeState.FAILED:
        return Decision(candidate, Action.REATTACH, "failed for good; retry it by hand", task=latest)
    if latest.attempt >= policy.max_attempts:
        return Decision(
            candidate, Action.REATTACH, f"gave no result in {latest.attempt} attempts; retry it by hand", task=latest
        )
    ready_at = at + backoff(latest.attempt, policy.retry_backoff_sec)
    if now < ready_at and outcome.state is OutcomeState.PASSING:
        return Decision(candidate, Action.HOLD, f"attempt {latest.attempt} failed; next not before {ready_at:%H:%M:%S}")
    return Decision(
        candidate, Action.SUBMIT, f"attempt {latest.attempt} {outcome.state.value}", attempt=latest.attempt + 1
    )


def _within_limits(decision: Decision, policy: PipelinePolicy, budget: _Budget) -> Decision:
    minutes, seconds = decision.candidate.minutes, decision.candidate.length_sec
    if minutes is not None and seconds is not None:
        if seconds < policy.min_duration_sec:
            return replace(
                decision,
                action=Action.REFUSE,
                reason=f"too short: {seconds:.1f} s, and the platform takes {policy.min_duration_sec:g} s or more",
            )
        if seconds > policy.max_duration_sec:
            return replace(
                decision,
                action=Action.REFUSE,
                reason=(
                    f"too long: {seconds / 60:.0f} min; the platform takes {policy.max_duration_sec / 60:g} min at most"
                ),
            )
        if reached := over_a_limit(minutes, policy) or budget.spend(minutes):
            return replace(decision, action=Action.HOLD, reason=reached)
    return decision


def over_a_limit(minutes: float | None, policy: PipelinePolicy) -> str | None:
    """Which limit a media file is longer than, so that no run and no day ever has room for it; None for none.

    Args:
        minutes: Minutes of it that would be embedded; None where its length is not known.
        policy: The team's choices.
    """
    for name, limit in (
        ("max_minutes_per_run", policy.max_minutes_per_run),
        ("max_minutes_per_day", policy.max_minutes_per_day),
    ):
        if minutes is not None and limit is not None and minutes > limit:
            return f"longer than {name} ({limit:g}) allows at all; raise it, or the file is never submitted"
    return None


class _Budget:
    """Media minutes that may still be spent, counted down in the order of the candidates."""

    def __init__(self, run: float | None, day: float | None) -> None:
        self._left = {"max_minutes_per_run": run, "max_minutes_per_day": day}

    def spend(self, minutes: float) -> str | None:
        """Take minutes off; or say which limit stands in the way and take nothing."""
        for name, left in self._left.items():
            if left is not None and minutes > left:
                # The same words for every file that it keeps waiting, so that they can be told as one.
                return f"{name} is reached: {max(left, 0.0):.1f} min are left, too few for it"
        self._left = {name: None if left is None else left - minutes for name, left in self._left.items()}
        return None


def backoff(attempt: int, first_sec: float, longest_sec: float = 6 * 3600.0) -> timedelta:
    """How long to wait after the ``attempt``-th failure: doubled each time, from ``first_sec`` to ``longest_sec``."""
    return timedelta(seconds=min(first_sec * 2 ** min(attempt - 1, 20), longest_sec))


def minutes_spent(records: Iterable[TaskRecord]) -> float:
    """Media minutes of these tasks."""
    return sum(record.minutes or 0.0 for record in records)


def _lifetime(policy: PipelinePolicy) -> timedelta:
    return timedelta(seconds=policy.result_lifetime_sec)
