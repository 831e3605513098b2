"""The plan of a submission, case by case."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.submission_plan import Action, Candidate, Decision, Known, plan_submissions
from embed_pipeline.orchestration.versions import Outcome, OutcomeState

_NOW = datetime(2026, 1, 10, tzinfo=UTC)
_FILE = Candidate("a.wav", "content", "digest", 1.0)
_TASK = TaskRecord(
    media="a.wav",
    task_id="t1",
    fingerprint="content",
    settings_digest="digest",
    platform="api.example.com",
    submitted_at=_NOW - timedelta(hours=1),
    attempt=1,
    minutes=1.0,
    how="created",
    root_run_id="earlier",
    media_uri="",
    storage_id=1,
)


def decide(*records: TaskRecord, candidate: Candidate = _FILE, **changes: object) -> Decision:
    options = {name: changes.pop(name) for name in ("force", "retry_failed", "minutes_left_today") if name in changes}
    outcomes = {outcome.subject: (outcome, _NOW - timedelta(minutes=30)) for outcome in changes.pop("outcomes", ())}
    known = Known(records, outcomes, frozenset(changes.pop("embedded", ())), "api.example.com", "this run")
    (decision,) = plan_submissions([candidate], known, PipelinePolicy(**changes), now=_NOW, **options)
    return decision


def outcome(state: OutcomeState, record: TaskRecord) -> Outcome:
    return Outcome(state, record.attempt, record.version)


def test_new_content_is_submitted_and_content_with_a_task_is_not() -> None:
    assert decide().action is Action.SUBMIT
    assert decide(_TASK).action is Action.REATTACH


@pytest.mark.parametrize("other", [{"platform": "emulator"}, {"settings_digest": "other"}, {"fingerprint": "other"}])
def test_a_task_for_something_else_serves_nothing(other: dict[str, str]) -> None:
    assert decide(replace(_TASK, **other)).action is Action.SUBMIT


def test_what_is_embedded_is_served_by_its_task_however_old() -> None:
    old = replace(_TASK, submitted_at=_NOW - timedelta(days=90))

    assert decide(old, embedded={"t1"}).action is Action.REATTACH
    assert decide(old).action is Action.SUBMIT


def test_what_the_dataset_could_not_give_is_submitted_though_another_name_has_it() -> None:
    decision = decide(_TASK, embedded={"t1"}, outcomes=[outcome(OutcomeState.EXPIRED, _TASK)])

    assert (decision.action, decision.attempt) == (Action.SUBMIT, 2)


def test_only_the_failures_since_the_last_retry_by_hand_count() -> None:
    first = replace(_TASK, attempt=3, submitted_at=_NOW - timedelta(hours=3))
    second = replace(_TASK, task_id="t2", attempt=1, storage_id=2)
    failed = [outcome(OutcomeState.PASSING, first), outcome(OutcomeState.PASSING, second)]

    decision = decide(second, first, outcomes=failed, max_attempts=3)

    assert (decision.action, decision.attempt) == (Action.SUBMIT, 2)


def test_a_failure_for_good_is_kept_until_a_person_asks_for_another_attempt() -> None:
    failed = [outcome(OutcomeState.FAILED, _TASK)]

    assert decide(_TASK, outcomes=failed).action is Action.REATTACH
    assert decide(_TASK, outcomes=failed, retry_failed=True).action is Action.SUBMIT


def test_retrying_what_failed_leaves_alone_what_did_not() -> None:
    assert decide(_TASK, retry_failed=True).action is Action.REATTACH
    assert decide(_TASK, embedded={"t1"}, retry_failed=True).action is Action.REATTACH


@pytest.mark.parametrize("asked", ["force", "retry_failed"])
def test_a_run_that_is_executed_again_does_not_pay_again_for_what_it_was_told_to(asked: str) -> None:
    own = replace(_TASK, root_run_id="this run")

    assert decide(own, **{asked: True}).action is Action.REATTACH
    # What the same run merely found, it did not make.
    found = replace(own, how="re-attached")
    assert decide(found, force=True).action is Action.SUBMIT


def test_a_passing_failure_waits_and_then_gets_another_attempt() -> None:
    passing = [outcome(OutcomeState.PASSING, _TASK)]

    assert decide(_TASK, outcomes=passing, retry_backoff_sec=3600.0).action is Action.HOLD
    assert decide(_TASK, outcomes=passing, retry_backoff_sec=60.0).action is Action.SUBMIT
    assert decide(_TASK, outcomes=passing, max_attempts=1).action is Action.REATTACH


def test_limits_hold_and_bounds_refuse() -> None:
    assert decide(minutes_left_today=0.5).action is Action.HOLD
    assert decide(max_minutes_per_run=0.5).action is Action.HOLD
    assert decide(_TASK, minutes_left_today=0.0).action is Action.REATTACH, "what costs nothing is not held"
    assert decide(candidate=replace(_FILE, minutes=0.01)).action is Action.REFUSE
    assert decide(candidate=replace(_FILE, minutes=500.0)).action is Action.REFUSE


def test_one_of_several_files_with_the_same_content_is_submitted_and_the_others_follow() -> None:
    files = [replace(_FILE, key=f"{name}.wav") for name in "abc"]
    known = Known((), {}, frozenset(), "api.example.com", "this run")

    decisions = plan_submissions(files, known, PipelinePolicy(max_minutes_per_run=1.5), now=_NOW)

    assert [decision.action for decision in decisions] == [Action.SUBMIT, Action.FOLLOW, Action.FOLLOW]
    assert {decision.follows for decision in decisions[1:]} == {"a.wav"}


@pytest.mark.parametrize("asked", ["force", "retry_failed"])
def test_a_run_that_is_executed_again_submits_anew_where_its_own_task_failed(asked: str) -> None:
    own = replace(_TASK, root_run_id="this run")

    decision = decide(own, outcomes=[outcome(OutcomeState.FAILED, own)], **{asked: True})

    assert decision.action is Action.SUBMIT


def test_what_lies_outside_the_window_is_not_counted_and_the_bounds_are_about_the_whole_file() -> None:
    settings = EmbeddingSettings(start_sec=30.0, end_sec=90.0)

    assert [settings.embedded_minutes(seconds) for seconds in (600.0, 60.0, 10.0)] == [1.0, 0.5, 0.0]
    windowed = replace(_FILE, minutes=1.0, duration_sec=600.0)
    assert decide(candidate=windowed, max_minutes_per_run=2.0, min_duration_sec=120.0).action is Action.SUBMIT
    assert decide(candidate=windowed, max_duration_sec=300.0).action is Action.REFUSE
