from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from embed_pipeline.ledger import (
    Claimed,
    ClaimOutcome,
    Content,
    Duplicate,
    Ledger,
    LedgerError,
    Limits,
    MediaState,
    Step,
    TaskRow,
    TaskState,
)
from embed_pipeline_tests.ledger.values import (
    DAY_SEC,
    DOUBT_SEC,
    LEASE_SEC,
    SETTINGS,
    TARGET,
    claim,
    collect,
    content,
    facts,
    latest_attempts,
    media_row,
    segments,
    submit,
    task_row,
    task_rows,
    try_claim,
    unreported,
    wish,
)

OTHER_PIPELINE = replace(TARGET, pipeline="other")


def send(ledger: Ledger, claimed: TaskRow) -> bool:
    return ledger.tasks.mark_sent(claimed, lease_sec=LEASE_SEC, doubt_sec=DOUBT_SEC)


def create(ledger: Ledger, claimed: TaskRow, task_id: str, **more: Any) -> Duplicate | None:
    target = more.pop("target", TARGET)
    return ledger.tasks.created(target, claimed, task_id=task_id, lifetime_sec=7 * DAY_SEC, **more)[1]


def end(ledger: Ledger, row: TaskRow, state: TaskState, **more: Any) -> None:
    ledger.tasks.ended(more.pop("target", TARGET), row, state, "broken", **more)


def step_of(outcome: Claimed | ClaimOutcome) -> Step:
    assert isinstance(outcome, ClaimOutcome), outcome
    return outcome.step


# Claims


def test_claim_is_given_once(ledger, clock):
    row = claim(ledger, owner="p1", run_id="r1")
    assert (row.state, row.attempt, row.tries, row.run_id, row.owner) == (TaskState.CLAIMED, 1, 1, "r1", "p1")
    assert (row.content, row.key, row.claimed_at, row.sent_at) == (content(), "a.mp4", clock.now, None)
    assert (row.settings, row.minutes, row.source_url) == (SETTINGS, 1.0, "https://media.example.com/f1/a.mp4")
    outcome = try_claim(ledger, owner="p2")
    assert step_of(outcome) is Step.WAIT
    assert outcome.task == row


def test_contents_differ_by_fingerprint_settings_and_platform(ledger):
    contents = [content(), content("f2"), content(digest="audio-1"), content(platform="emulator")]
    wishes = [wish(f"{number}.mp4", content=one) for number, one in enumerate(contents)]
    outcomes = ledger.tasks.claim(TARGET, wishes, run_id="r1", owner="p1", lease_sec=LEASE_SEC)
    assert {one: type(outcome) for one, outcome in outcomes.items()} == dict.fromkeys(contents, Claimed)


def test_content_that_is_asked_for_under_two_names_is_claimed_once(ledger):
    outcomes = ledger.tasks.claim(
        TARGET, [wish("a.mp4"), wish("b.mp4")], run_id="r1", owner="p1", lease_sec=LEASE_SEC, limits=Limits(per_run=1)
    )
    assert [type(outcome) for outcome in outcomes.values()] == [Claimed]


def test_pipelines_share_the_tasks_of_a_content(ledger):
    claimed = claim(ledger)
    assert step_of(try_claim(ledger, target=OTHER_PIPELINE, owner="p2")) is Step.WAIT
    send(ledger, claimed)
    create(ledger, claimed, "t1")
    outcome = try_claim(ledger, target=OTHER_PIPELINE, owner="p2")
    assert step_of(outcome) is Step.WAIT
    assert outcome.task.task_id == "t1"


def test_claim_that_lapsed_before_anything_was_sent_goes_to_the_next_one_who_asks(ledger, clock):
    first = claim(ledger, owner="p1")
    ledger.tasks.note_upload(first, "asset-1")
    clock.move(LEASE_SEC - 1)
    assert step_of(try_claim(ledger, owner="p2")) is Step.WAIT
    clock.move(1)
    second = claim(ledger, "b.mp4", owner="p2", run_id="r2")
    assert (second.id, second.attempt, second.tries) == (first.id, 1, 1)
    assert (second.owner, second.run_id, second.key, second.claimed_at) == ("p2", "r2", "b.mp4", clock.now)
    assert second.asset_id == "asset-1"
    assert not send(ledger, first)
    assert send(ledger, second)


@pytest.mark.parametrize("ask", ["due", "failed", "force"])
def test_claim_that_lapsed_after_its_request_was_sent_is_only_recovered(ledger, clock, ask):
    first = claim(ledger)
    send(ledger, first)
    clock.move(LEASE_SEC)
    outcome = try_claim(ledger, owner="p2", ask=ask)
    assert step_of(outcome) is Step.RECOVER
    assert outcome.task.id == first.id


def test_same_process_does_not_hold_a_claim_twice(ledger, clock):
    first = claim(ledger, owner="p1")
    clock.move(LEASE_SEC)
    second = claim(ledger, owner="p1")
    assert not send(ledger, first)
    ledger.tasks.release(first)
    ledger.tasks.note_upload(first, "asset-1")
    assert task_row(ledger, second.id).asset_id is None
    assert send(ledger, second)


# What a claim may follow


@pytest.mark.parametrize("state", [TaskState.RETRYABLE, TaskState.EXPIRED])
def test_attempt_that_may_succeed_later_is_followed_after_its_backoff(ledger, clock, state):
    first = submit(ledger, run_id="r1")
    end(ledger, first, state, retry_after_sec=60)
    assert step_of(try_claim(ledger, run_id="r2")) is Step.BACK_OFF
    clock.move(60)
    second = claim(ledger, run_id="r2")
    assert (second.attempt, second.tries) == (2, 2)
    assert latest_attempts(ledger) == [2]
    assert task_row(ledger, first.id).state is state


def test_attempts_by_themselves_are_limited(ledger):
    for number in (1, 2, 3):
        end(ledger, submit(ledger, task_id=f"t{number}"), TaskState.RETRYABLE)
    assert step_of(try_claim(ledger)) is Step.GIVE_UP
    assert [row.attempt for row in task_rows(ledger)] == [1, 2, 3]
    by_hand = claim(ledger, run_id="r2", ask="failed")
    assert (by_hand.attempt, by_hand.tries) == (4, 1)


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.REFUSED])
def test_content_that_failed_for_good_is_asked_for_again_by_hand_only(ledger, state):
    row = claim(ledger, run_id="r1") if state is TaskState.REFUSED else submit(ledger, run_id="r1")
    end(ledger, row, state)
    assert step_of(try_claim(ledger, run_id="r2")) is Step.GIVE_UP
    # A run that is executed again does not pay for what it has learned already.
    assert step_of(try_claim(ledger, run_id="r1", ask="failed")) is Step.GIVE_UP
    assert claim(ledger, run_id="r2", ask="failed").attempt == 2


def test_content_that_backs_off_is_asked_for_at_once_by_hand(ledger):
    end(ledger, submit(ledger, run_id="r1"), TaskState.RETRYABLE, retry_after_sec=60)
    assert claim(ledger, run_id="r2", ask="failed").attempt == 2


def test_refusal_does_not_count_under_another_configuration(ledger):
    end(ledger, claim(ledger), TaskState.REFUSED)
    row = claim(ledger, target=replace(TARGET, config_digest="config-2"))
    assert (row.attempt, row.tries) == (2, 1)


@pytest.mark.parametrize("state", ["processing", "ready", "collected"])
def test_content_that_a_task_serves_is_paid_for_again_by_force_only(ledger, state):
    row = submit(ledger, run_id="r1")
    if state != "processing":
        ledger.tasks.mark_ready([row.id])
    if state == "collected":
        collect(ledger, row)
    for ask in ("due", "failed"):
        assert step_of(try_claim(ledger, run_id="r2", ask=ask)) is (
            Step.WAIT if state == "processing" else Step.COLLECT
        )
    # What the same run created before it was executed again serves it.
    assert not isinstance(try_claim(ledger, run_id="r1", ask="force"), Claimed)
    again = claim(ledger, run_id="r2", ask="force")
    assert (again.attempt, again.tries) == (2, 1)
    assert latest_attempts(ledger) == [2]


def test_claim_of_another_is_not_taken_by_force(ledger):
    claim(ledger)
    assert step_of(try_claim(ledger, owner="p2", ask="force")) is Step.WAIT


# Leases


def test_request_may_be_sent_while_the_lease_lasts(ledger, clock):
    row = claim(ledger, lease_sec=10)
    clock.move(9)
    assert send(ledger, row)
    sent = task_row(ledger, row.id)
    assert (sent.sent_at, sent.in_doubt_until) == (clock.now, clock.now + LEASE_SEC + DOUBT_SEC)
    clock.move(LEASE_SEC - 1)
    assert send(ledger, row)
    clock.move(LEASE_SEC)
    assert not send(ledger, row)


def test_request_is_not_sent_for_a_claim_that_is_somebody_elses(ledger, clock):
    row = claim(ledger, owner="p1")
    clock.move(LEASE_SEC)
    (taken,) = ledger.tasks.take_over([row], owner="p2", lease_sec=LEASE_SEC)
    assert not send(ledger, row)
    assert send(ledger, taken)


def test_request_is_not_sent_for_a_claim_that_is_answered_or_gone(ledger):
    answered, released = claim(ledger), claim(ledger, "b.mp4", "f2")
    create(ledger, answered, "t1")
    ledger.tasks.release(released)
    assert not send(ledger, answered)
    assert not send(ledger, released)


def test_leases_of_a_process_are_renewed_together(ledger, clock):
    rows = [claim(ledger, f"{number}.mp4", f"f{number}", owner="p1") for number in range(3)]
    other = claim(ledger, "b.mp4", "f9", owner="p2")
    clock.move(LEASE_SEC - 1)
    ledger.tasks.renew("p1", lease_sec=LEASE_SEC)
    clock.move(1)
    assert [row.id for row in ledger.tasks.lapsed_claims(TARGET.platform)] == [other.id]
    clock.move(LEASE_SEC - 1)
    assert len(ledger.tasks.lapsed_claims(TARGET.platform)) == 4
    assert not any(send(ledger, row) for row in rows)


def test_claim_that_was_left_in_doubt_is_not_renewed_with_the_others(ledger):
    """The process goes on and renews its leases, and this claim is for whoever recovers it."""
    row = claim(ledger)
    send(ledger, row)
    ledger.tasks.leave_in_doubt(row, doubt_sec=30)
    ledger.tasks.renew(row.owner, lease_sec=LEASE_SEC)
    assert [one.id for one in ledger.tasks.lapsed_claims(TARGET.platform)] == [row.id]
    assert step_of(try_claim(ledger, owner="p2")) is Step.RECOVER


def test_upload_is_noted_by_the_holder_alone(ledger, clock):
    row = claim(ledger)
    ledger.tasks.note_upload(row, "asset-1")
    assert task_row(ledger, row.id).asset_id == "asset-1"
    ledger.tasks.note_upload(row, None)
    assert task_row(ledger, row.id).asset_id is None
    clock.move(LEASE_SEC)
    ledger.tasks.take_over([row], owner="p2", lease_sec=LEASE_SEC)
    ledger.tasks.note_upload(row, "asset-2")
    assert task_row(ledger, row.id).asset_id is None


# Release


def test_released_claim_leaves_nothing(ledger):
    ledger.tasks.release(claim(ledger))
    assert task_rows(ledger) == []
    assert claim(ledger).attempt == 1


def test_release_makes_the_attempt_before_the_latest_again(ledger):
    end(ledger, submit(ledger), TaskState.RETRYABLE)
    ledger.tasks.release(claim(ledger))
    assert latest_attempts(ledger) == [1]
    assert claim(ledger).attempt == 2


def test_claim_of_another_is_not_released(ledger, clock):
    row = claim(ledger)
    clock.move(LEASE_SEC)
    ledger.tasks.take_over([row], owner="p2", lease_sec=LEASE_SEC)
    ledger.tasks.release(row)
    assert task_row(ledger, row.id).owner == "p2"


def test_number_of_a_released_claim_does_not_come_back(ledger):
    """A late answer would be recorded for whatever has the number by then."""
    released = claim(ledger, "a.mp4", "f1")
    ledger.tasks.release(released)
    assert claim(ledger, "b.mp4", "f2").id != released.id


# Doubt and recovery


def test_lapsed_claims_are_listed_oldest_first(ledger, clock):
    rows = [claim(ledger, "a.mp4", "f1")]
    clock.move(1)
    rows.append(claim(ledger, "b.mp4", "f2", target=OTHER_PIPELINE))
    clock.move(1)
    rows.append(claim(ledger, "c.mp4", "f3"))
    claim(ledger, "d.mp4", content=content("f4", platform="emulator"))
    clock.move(LEASE_SEC)
    claim(ledger, "e.mp4", "f5")
    assert [row.key for row in ledger.tasks.lapsed_claims(TARGET.platform)] == ["a.mp4", "b.mp4", "c.mp4"]
    assert [row.key for row in ledger.tasks.lapsed_claims(TARGET.platform, name="")] == ["a.mp4", "c.mp4"]
    assert [row.key for row in ledger.tasks.lapsed_claims("emulator")] == ["d.mp4"]


def test_lapsed_claim_is_taken_over_once(ledger, clock):
    row = claim(ledger, owner="p1")
    send(ledger, row)
    assert ledger.tasks.take_over([row], owner="p2", lease_sec=LEASE_SEC) == []
    clock.move(LEASE_SEC)
    (lapsed,) = ledger.tasks.lapsed_claims(TARGET.platform)
    (taken,) = ledger.tasks.take_over([lapsed], owner="p2", lease_sec=LEASE_SEC)
    assert ledger.tasks.take_over([lapsed], owner="p3", lease_sec=LEASE_SEC) == []
    assert (taken.owner, taken.run_id, taken.claimed_at, taken.sent_at) == (
        "p2",
        row.run_id,
        row.claimed_at,
        lapsed.sent_at,
    )
    assert step_of(try_claim(ledger, owner="p3")) is Step.WAIT


def test_process_that_takes_its_own_claim_over_has_it_once(ledger, clock):
    row = claim(ledger, owner="p1")
    clock.move(LEASE_SEC)
    (taken,) = ledger.tasks.take_over([row], owner="p1", lease_sec=LEASE_SEC)
    assert not send(ledger, row)
    assert send(ledger, taken)


def test_doubt_is_cleared_when_its_time_is_over(ledger, clock):
    row = claim(ledger)
    send(ledger, row)
    ledger.tasks.leave_in_doubt(row, doubt_sec=30)
    (taken,) = ledger.tasks.take_over([row], owner="p2", lease_sec=LEASE_SEC)
    early = clock.now
    assert not ledger.tasks.clear_doubt(taken, looked_at=early)
    clock.move(30)
    assert not ledger.tasks.clear_doubt(row, looked_at=clock.now)
    # The task may have been created after that look.
    assert not ledger.tasks.clear_doubt(taken, looked_at=early)
    assert ledger.tasks.clear_doubt(taken, looked_at=clock.now)
    cleared = task_row(ledger, row.id)
    assert (cleared.state, cleared.sent_at, cleared.in_doubt_until) == (TaskState.CLAIMED, None, None)


def test_doubt_is_cleared_at_once_where_a_person_insists(ledger, clock):
    row = claim(ledger)
    send(ledger, row)
    assert ledger.tasks.clear_doubt(row, looked_at=clock.now, at_once=True)


# Answers


def test_created_task_is_attached_to_every_name_of_its_content(ledger, clock):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4"), facts("c.mp4", "f2"), facts("gone.mp4")])
    ledger.media.mark_gone("", ["gone.mp4"])
    claimed = claim(ledger)
    send(ledger, claimed)
    clock.move(5)
    rows, duplicate = ledger.tasks.created(
        TARGET, claimed, task_id="t1", lifetime_sec=100, own={"a.mp4"}, run_id="run-1"
    )
    assert duplicate is None
    assert [(row.kind, row.key, row.payload["origin"]) for row in rows] == [("task", "a.mp4", "created")]
    left = [row for row in ledger.outbox.unreported("") if row.kind == "task"]
    assert [(row.key, row.payload["origin"]) for row in left] == [("b.mp4", "attached")]
    row = task_row(ledger, claimed.id)
    assert (row.state, row.task_id, row.origin) == (TaskState.PROCESSING, "t1", "created")
    assert (row.created_at, row.expires_at, row.in_doubt_until) == (clock.now, clock.now + 100, None)
    attached = {key: row.task_id for key, row in ledger.rows(TARGET, ledger.keys("")).items()}
    assert attached == {"a.mp4": "t1", "b.mp4": "t1", "c.mp4": None, "gone.mp4": None}


def test_adopted_task_keeps_the_time_of_its_creation(ledger, clock):
    claimed = claim(ledger)
    create(ledger, claimed, "t1", origin="adopted", created_at=clock.now - 50)
    row = task_row(ledger, claimed.id)
    assert (row.origin, row.created_at, row.expires_at) == ("adopted", clock.now - 50, clock.now - 50 + 7 * DAY_SEC)


def test_answer_counts_although_the_claim_was_taken_over_meanwhile(ledger, clock):
    late = claim(ledger, owner="p1")
    send(ledger, late)
    clock.move(LEASE_SEC)
    (taken,) = ledger.tasks.take_over([late], owner="p2", lease_sec=LEASE_SEC)
    assert create(ledger, late, "t1") is None
    assert not send(ledger, taken)
    assert create(ledger, taken, "t1", origin="adopted") is None
    assert [(row.task_id, row.origin) for row in task_rows(ledger)] == [("t1", "created")]


def test_answer_counts_although_the_claim_was_released_meanwhile(ledger, clock):
    ledger.media.record(TARGET, [facts()])
    late = claim(ledger, owner="p1")
    send(ledger, late)
    clock.move(DOUBT_SEC)
    ledger.tasks.release(ledger.tasks.take_over([late], owner="p2", lease_sec=LEASE_SEC)[0])
    assert create(ledger, late, "t1") is None
    assert [(row.attempt, row.task_id, row.state) for row in task_rows(ledger)] == [(1, "t1", TaskState.PROCESSING)]
    assert latest_attempts(ledger) == [1]
    assert media_row(ledger).task_id == "t1"
    assert step_of(try_claim(ledger)) is Step.WAIT


def test_answer_counts_although_another_run_has_claimed_the_content_anew(ledger, clock):
    ledger.media.record(TARGET, [facts()])
    late = claim(ledger, owner="p1")
    send(ledger, late)
    clock.move(DOUBT_SEC)
    ledger.tasks.release(ledger.tasks.take_over([late], owner="p2", lease_sec=LEASE_SEC)[0])
    new = claim(ledger, owner="p3")
    assert create(ledger, late, "t1") is None
    assert not send(ledger, new)
    assert [(row.attempt, row.task_id) for row in task_rows(ledger)] == [(1, "t1")]
    assert media_row(ledger).task_id == "t1"


def test_answer_counts_although_the_content_was_refused_meanwhile(ledger, clock):
    ledger.media.record(TARGET, [facts()])
    late = claim(ledger, owner="p1")
    send(ledger, late)
    clock.move(DOUBT_SEC)
    end(ledger, ledger.tasks.take_over([late], owner="p2", lease_sec=LEASE_SEC)[0], TaskState.REFUSED)
    assert create(ledger, late, "t1") is None
    (row,) = task_rows(ledger)
    assert (row.task_id, row.state, row.error, row.ended_at) == ("t1", TaskState.PROCESSING, None, None)
    assert media_row(ledger).state is MediaState.PROCESSING


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.RETRYABLE, TaskState.EXPIRED])
def test_answer_counts_as_the_next_attempt_where_the_latest_gave_no_result(ledger, clock, state):
    ledger.media.record(TARGET, [facts()])
    end(ledger, submit(ledger, task_id="t1"), TaskState.RETRYABLE)
    late = claim(ledger)
    send(ledger, late)
    clock.move(DOUBT_SEC)
    ledger.tasks.release(ledger.tasks.take_over([late], owner="p2", lease_sec=LEASE_SEC)[0])
    assert create(ledger, late, "t2") is None
    assert [(row.attempt, row.task_id, row.tries) for row in task_rows(ledger)] == [(1, "t1", 1), (2, "t2", 2)]
    assert latest_attempts(ledger) == [2]
    assert media_row(ledger).task_id == "t2"
    # The same, where a whole attempt went by meanwhile.
    end(ledger, task_rows(ledger)[1], state)
    assert create(ledger, late, "t3") is None
    assert [(row.attempt, row.task_id) for row in task_rows(ledger)] == [(1, "t1"), (2, "t2"), (3, "t3")]
    assert latest_attempts(ledger) == [3]


def test_task_is_a_duplicate_where_another_one_serves(ledger, clock):
    ledger.media.record(TARGET, [facts()])
    late = claim(ledger, owner="p1")
    send(ledger, late)
    clock.move(DOUBT_SEC)
    ledger.tasks.release(ledger.tasks.take_over([late], owner="p2", lease_sec=LEASE_SEC)[0])
    submit(ledger, task_id="t2", owner="p3")
    assert create(ledger, late, "t1") == Duplicate("t1", "t2")
    assert [row.task_id for row in task_rows(ledger)] == ["t2"]
    assert media_row(ledger).task_id == "t2"


def test_answer_that_comes_twice_counts_once(ledger):
    ledger.media.record(TARGET, [facts()])
    claimed = claim(ledger)
    assert create(ledger, claimed, "t1") is None
    assert create(ledger, claimed, "t1") is None
    assert [kind for kind, _ in unreported(ledger)] == ["content", "task"]


def test_late_answer_to_an_attempt_that_is_over_changes_nothing(ledger):
    """The claim of the second attempt must not be taken to be answered."""
    first = claim(ledger)
    create(ledger, first, "t1")
    end(ledger, task_row(ledger, first.id), TaskState.RETRYABLE)
    second = claim(ledger)
    assert create(ledger, first, "t1") is None
    assert send(ledger, second)
    assert task_row(ledger, first.id).state is TaskState.RETRYABLE


def test_task_of_one_content_is_never_recorded_for_another(ledger):
    create(ledger, claim(ledger, "a.mp4", "f1"), "t1")
    other = claim(ledger, "b.mp4", "f2")
    with pytest.raises(LedgerError, match=r"t1 serves the content of a\.mp4 already"):
        create(ledger, other, "t1", origin="adopted")
    assert task_row(ledger, other.id).state is TaskState.CLAIMED
    assert send(ledger, other)


def test_platforms_may_give_the_same_id(ledger):
    create(ledger, claim(ledger), "t1")
    on_emulator = content(platform="emulator")
    assert create(ledger, claim(ledger, content=on_emulator), "t1") is None
    assert ledger.tasks.known_ids(["t1", "t2"]) == {"t1"}


def test_tasks_are_found_by_content_and_id(ledger):
    row = submit(ledger, task_id="t1")
    claim(ledger, "b.mp4", "f2")
    latest = ledger.tasks.latest(TARGET, [content("f1"), content("f2"), content("f3")])
    assert {one.fingerprint: (task.key, step) for one, (task, step) in latest.items()} == {
        "f1": ("a.mp4", Step.WAIT),
        "f2": ("b.mp4", Step.WAIT),
    }
    assert ledger.tasks.by_id(["t1", "t9"]) == {"t1": row}


# Ends


def test_end_is_reported_for_every_name(ledger, clock):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4")])
    ledger.media.defer("", {"b.mp4": ("waits for a slot", 60)})
    row = submit(ledger)
    rows = ledger.tasks.ended(TARGET, row, TaskState.FAILED, "no decodable video", own={"a.mp4"}, run_id="run-1")
    assert [(one.key, one.payload["error"], one.payload["task_id"]) for one in rows] == [
        ("a.mp4", "no decodable video", "t1")
    ]
    ended = task_row(ledger, row.id)
    assert (ended.state, ended.error, ended.ended_at) == (TaskState.FAILED, "no decodable video", clock.now)
    assert media_row(ledger, "b.mp4").state is MediaState.FAILED
    assert media_row(ledger, "b.mp4").deferred_reason is None


def test_end_counts_once(ledger):
    row = submit(ledger)
    end(ledger, row, TaskState.FAILED)
    assert ledger.tasks.ended(TARGET, row, TaskState.EXPIRED, "too late") == []
    assert task_row(ledger, row.id).state is TaskState.FAILED


def test_refusal_is_recorded_by_the_holder_alone(ledger, clock):
    late = claim(ledger, owner="p1")
    clock.move(LEASE_SEC)
    (taken,) = ledger.tasks.take_over([late], owner="p2", lease_sec=LEASE_SEC)
    end(ledger, late, TaskState.REFUSED)
    assert task_row(ledger, late.id).state is TaskState.CLAIMED
    end(ledger, taken, TaskState.REFUSED)
    assert task_row(ledger, late.id).state is TaskState.REFUSED


@pytest.mark.parametrize("state", [TaskState.RETRYABLE, TaskState.EXPIRED])
def test_claim_does_not_end_like_a_task_before_it_is_answered(ledger, state):
    row = claim(ledger)
    end(ledger, row, state)
    assert task_row(ledger, row.id).state is TaskState.CLAIMED


def test_end_is_one_of_the_ends(ledger):
    with pytest.raises(ValueError, match="no end"):
        end(ledger, submit(ledger), TaskState.COLLECTED)


def test_words_that_postgresql_cannot_hold_are_recorded_without_them(ledger):
    ledger.media.record(TARGET, [facts()])
    row = submit(ledger)
    ledger.tasks.ended(TARGET, row, TaskState.FAILED, "bad byte \0 and half a pair \ud83d")
    assert task_row(ledger, row.id).error == "bad byte  and half a pair ?"
    assert unreported(ledger)[-1] == ("failure", "a.mp4")
    ledger.media.defer("", {"a.mp4": ("the answer was \0", None)})
    assert media_row(ledger).deferred_reason == "the answer was "


def test_refusals_under_another_configuration_are_found(ledger):
    end(ledger, claim(ledger), TaskState.REFUSED)
    other = replace(TARGET, config_digest="config-2")
    assert list(ledger.tasks.ended_otherwise(other, ["f1", "f2"])) == ["f1"]
    assert ledger.tasks.ended_otherwise(TARGET, ["f1"]) == {}


# Results


def test_tasks_that_have_ended_are_marked_once(ledger, clock):
    rows = [submit(ledger, f"{number}.mp4", f"f{number}", task_id=f"t{number}") for number in range(3)]
    end(ledger, rows[2], TaskState.FAILED)
    ledger.tasks.mark_ready([row.id for row in rows])
    clock.move(1)
    ledger.tasks.mark_ready([rows[0].id])
    states = [task_row(ledger, row.id) for row in rows]
    assert [row.state for row in states] == [TaskState.READY, TaskState.READY, TaskState.FAILED]
    assert [row.ready_at for row in states] == [clock.now - 1, clock.now - 1, None]


def test_collected_segments_are_recorded_with_what_they_are_of(ledger, clock):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4")])
    row = submit(ledger)
    problems = {"too_few": "1 of 3"}
    rows = ledger.tasks.collected(
        TARGET,
        row,
        [segments("b.mp4", problems=problems, details={"shown": 1}), segments("a.mp4")],
        run_id="run-1",
    )
    assert [(one.kind, one.key) for one in rows] == [("segments", "a.mp4"), ("segments", "b.mp4")]
    assert rows[1].payload["problems"] == problems
    assert rows[1].payload["shown"] == 1
    found = media_row(ledger, "b.mp4")
    assert (found.state, found.step) == (MediaState.EMBEDDED, Step.NONE)
    assert (found.embedded_task_id, found.embedded_fingerprint, found.embedded_digest) == ("t1", "f1", "video-1")
    assert (found.segments, found.space, found.size_bytes) == (10, "marengo3.0-512", 1000)
    assert (found.written_at, found.problems) == (clock.now, problems)
    assert task_row(ledger, row.id).state is TaskState.COLLECTED


def test_result_of_a_content_that_the_file_has_no_more_does_not_hide_the_new_task(ledger):
    ledger.media.record(TARGET, [facts("a.mp4", "f1")])
    old = submit(ledger, "a.mp4", "f1", task_id="t1")
    ledger.media.record(TARGET, [facts("a.mp4", "f2")])
    new = submit(ledger, "a.mp4", "f2", task_id="t2")
    collect(ledger, old)
    found = media_row(ledger)
    assert (found.task_id, found.embedded_task_id, found.state) == ("t2", "t1", MediaState.PROCESSING)
    assert [file.task_id for file in ledger.pending("")] == ["t2"]
    collect(ledger, new)
    assert media_row(ledger).state is MediaState.EMBEDDED


def test_result_of_an_earlier_attempt_does_not_hide_the_one_that_a_person_asked_for(ledger):
    ledger.media.record(TARGET, [facts()])
    old = submit(ledger, task_id="t1")
    submit(ledger, task_id="t2", run_id="r2", ask="force")
    collect(ledger, old)
    assert [file.task_id for file in ledger.pending("")] == ["t2"]


def test_result_serves_a_file_that_was_not_attached_to_its_task(ledger):
    ledger.media.record(OTHER_PIPELINE, [facts("b.mp4")])
    row = submit(ledger)
    ledger.tasks.collected(OTHER_PIPELINE, row, [segments("b.mp4")])
    found = media_row(ledger, "b.mp4", OTHER_PIPELINE)
    assert (found.task_id, found.state) == ("t1", MediaState.EMBEDDED)


def test_result_of_a_file_that_was_forgotten_is_not_reported(ledger):
    ledger.media.record(TARGET, [facts()])
    row = submit(ledger)
    ledger.media.forget("", ["a.mp4"], retired=False)
    assert ledger.tasks.collected(TARGET, row, [segments()], run_id="run-1") == []
    assert ledger.keys("") == []


def test_result_that_expired_after_it_was_lost_is_created_anew(ledger):
    ledger.media.record(TARGET, [facts()])
    row = submit(ledger)
    collect(ledger, row)
    ledger.media.remove_segments("", ["a.mp4"])
    assert [(file.task_id, file.state) for file in ledger.pending("")] == [("t1", TaskState.COLLECTED)]
    end(ledger, row, TaskState.EXPIRED)
    assert ledger.pending("") == []
    assert [file.key for file in ledger.due(TARGET)] == ["a.mp4"]
    assert submit(ledger, task_id="t2").attempt == 2


# Results that were there before the ledger


def found_result(key: str, fingerprint: str, task_id: str, **more: Any) -> tuple[TaskRow, str, Any]:
    row = TaskRow(
        id=0, content=content(fingerprint), attempt=1, tries=1, state=TaskState.COLLECTED, pipeline="", key=key,
        run_id="", owner="", claimed_at=1000.0, sent_at=None, in_doubt_until=None, source_url=None,
        source_filename=None, asset_id=None, media_type="video", settings=SETTINGS, config_digest="", minutes=None,
        task_id=task_id, origin="imported", created_at=1000.0, ready_at=None, ended_at=None, expires_at=None,
        retry_at=None, error=None,
    )  # fmt: skip
    return replace(row, **more), f"file:///library/{key}", segments(key)


def test_results_of_the_dataset_are_imported_once(ledger):
    results = [found_result(f"{number:04}.mp4", f"f{number}", f"t{number}") for number in range(600)]
    assert ledger.tasks.adopt_results(TARGET, iter(results)) == 600
    assert ledger.tasks.adopt_results(TARGET, results) == 0
    assert ledger.counts(TARGET)[MediaState.EMBEDDED] == 600
    assert ledger.due(TARGET) == []
    assert ledger.spent_today(TARGET).minutes == 0.0
    assert ledger.minutes_billed("") == {}


def test_imported_results_serve_files_that_were_discovered_before(ledger):
    ledger.media.record(TARGET, [facts("a.mp4", "f1"), facts("b.mp4", "f2")])
    ledger.tasks.adopt_results(TARGET, [found_result("a.mp4", "f1", "t1"), found_result("b.mp4", "old", "t2")])
    assert media_row(ledger, "a.mp4").state is MediaState.EMBEDDED
    changed = media_row(ledger, "b.mp4")
    assert (changed.state, changed.embedded_task_id, changed.task_id) == (MediaState.UNSUBMITTED, "t2", None)


def test_import_does_not_replace_what_the_ledger_knows(ledger):
    ledger.media.record(TARGET, [facts()])
    row = submit(ledger, task_id="t2")
    collect(ledger, row)
    ledger.tasks.adopt_results(TARGET, [found_result("a.mp4", "f1", "t1")])
    assert media_row(ledger).embedded_task_id == "t2"
    assert [one.task_id for one in task_rows(ledger)] == ["t2"]


# Limits


def test_minutes_of_a_run_are_limited(ledger):
    limits = Limits(per_run=2.5)
    for number in range(2):
        claim(ledger, f"{number}.mp4", f"f{number}", run_id="r1", limits=limits)
    outcome = try_claim(ledger, "c.mp4", "f9", run_id="r1", limits=limits)
    assert (outcome.step, outcome.limit) == (
        Step.SUBMIT,
        "max_minutes_per_run is reached: 0.5 min are left, too few for it",
    )
    claim(ledger, "d.mp4", "f8", run_id="r1", limits=limits, minutes=0.5)
    claim(ledger, "c.mp4", "f9", run_id="r2", limits=limits)


def test_minutes_of_a_day_are_limited(ledger, clock):
    limits = Limits(per_day=2)
    claim(ledger, "a.mp4", "f1", run_id="r1", limits=limits)
    clock.move(DAY_SEC / 2)
    claim(ledger, "b.mp4", "f2", run_id="r2", limits=limits)
    assert try_claim(ledger, "c.mp4", "f3", run_id="r3", limits=limits).limit is not None
    assert ledger.spent_today(TARGET).minutes == 2.0
    assert ledger.spent_today(TARGET).frees_at == clock.now + DAY_SEC / 2
    clock.move(DAY_SEC / 2)
    assert ledger.spent_today(TARGET).minutes == 1.0
    claim(ledger, "c.mp4", "f3", run_id="r3", limits=limits)


def test_limit_holds_within_a_batch_and_smaller_files_still_fit(ledger):
    wishes = [wish(f"{n}.mp4", f"f{n}", minutes=minutes) for n, minutes in enumerate((3.0, 4.0, 2.0, 9.0, 1.0))]
    outcomes = ledger.tasks.claim(
        TARGET, wishes, run_id="r1", owner="p1", lease_sec=LEASE_SEC, limits=Limits(per_day=10, per_run=20)
    )
    given = {one.fingerprint for one, outcome in outcomes.items() if isinstance(outcome, Claimed)}
    assert given == {"f0", "f1", "f2", "f4"}
    assert {outcome.limit for outcome in outcomes.values() if isinstance(outcome, ClaimOutcome)} == {
        "max_minutes_per_day is reached: 1.0 min are left, too few for it"
    }


def test_minutes_of_released_and_refused_claims_are_free_again(ledger):
    limits = Limits(per_day=1)
    ledger.tasks.release(claim(ledger, limits=limits))
    end(ledger, claim(ledger, limits=limits), TaskState.REFUSED)
    submit(ledger, "b.mp4", "f2", limits=limits)
    end(ledger, task_rows(ledger, "f2")[0], TaskState.FAILED)
    # A task that failed has been paid for.
    assert try_claim(ledger, "c.mp4", "f3", limits=limits).limit is not None


def test_claim_that_goes_on_after_its_run_died_is_not_counted_twice(ledger, clock):
    limits = Limits(per_day=1, per_run=1)
    claim(ledger, run_id="r1", limits=limits)
    clock.move(LEASE_SEC)
    claim(ledger, run_id="r2", limits=limits)
    clock.move(LEASE_SEC)
    claim(ledger, run_id="r2", limits=limits)
    assert ledger.spent_today(TARGET).minutes == 1.0
    assert try_claim(ledger, "b.mp4", "f2", run_id="r3", limits=limits).limit is not None


def test_limits_of_pipelines_are_apart(ledger):
    limits = Limits(per_day=1)
    claim(ledger, limits=limits)
    claim(ledger, "b.mp4", "f2", target=OTHER_PIPELINE, limits=limits)
    assert ledger.spent_today(OTHER_PIPELINE).minutes == 1.0


def test_file_of_unknown_length_does_not_count(ledger):
    claim(ledger, limits=Limits(per_day=0), minutes=None)
    assert ledger.spent_today(TARGET).minutes == 0.0


# Side by side


def together(*jobs: Any) -> list[Any]:
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def test_content_that_many_claim_at_once_is_given_to_one(ledger):
    for number in range(4):
        outcomes = together(
            *(lambda owner=f"p{n}", n=number: try_claim(ledger, fingerprint=f"f{n}", owner=owner) for n in range(6))
        )
        given = [outcome for outcome in outcomes if isinstance(outcome, Claimed)]
        assert len(given) == 1
        assert {outcome.step for outcome in outcomes if isinstance(outcome, ClaimOutcome)} == {Step.WAIT}


def test_next_attempt_that_many_claim_at_once_is_given_to_one(ledger):
    for number in range(4):
        end(ledger, submit(ledger, fingerprint=f"f{number}", task_id=f"t{number}"), TaskState.RETRYABLE)
        outcomes = together(
            *(lambda owner=f"p{n}", n=number: try_claim(ledger, fingerprint=f"f{n}", owner=owner) for n in range(6))
        )
        assert sum(isinstance(outcome, Claimed) for outcome in outcomes) == 1
        assert [row.attempt for row in task_rows(ledger, f"f{number}")] == [1, 2]
        assert latest_attempts(ledger, f"f{number}") == [2]


def test_lapsed_claim_that_many_take_over_at_once_is_given_to_one(ledger, clock):
    rows = [claim(ledger, fingerprint=f"f{number}") for number in range(10)]
    for row in rows:
        send(ledger, row)
    clock.move(LEASE_SEC)
    taken = together(
        *(lambda n=n: ledger.tasks.take_over(random.sample(rows, 10), owner=f"p{n}", lease_sec=9) for n in range(6))
    )
    assert sorted(row.id for part in taken for row in part) == [row.id for row in rows]


def test_limits_hold_for_runs_side_by_side(ledger):
    """Two runs must not both spend the last minute."""

    def run(number: int) -> float:
        spent = 0.0
        for part in range(6):
            wishes = [wish(f"{number}-{part}-{n}.mp4", f"f{number}-{part}-{n}", minutes=1.5) for n in range(3)]
            outcomes = ledger.tasks.claim(
                TARGET,
                wishes,
                run_id=f"r{number}",
                owner=f"p{number}",
                lease_sec=LEASE_SEC,
                limits=Limits(per_run=12, per_day=40),
            )
            spent += 1.5 * sum(isinstance(outcome, Claimed) for outcome in outcomes.values())
        return spent

    spent = together(*(lambda n=n: run(n) for n in range(5)))
    assert max(spent) <= 12
    assert 40 - 1.5 < sum(spent) <= 40
    assert ledger.spent_today(TARGET).minutes == sum(spent)


def test_runs_that_meet_everywhere_never_block_each_other(ledger):  # noqa: C901 - every operation, in one worker
    """Every operation on the same few contents, from many threads, in every order: no deadlock, no lost row."""
    keys = [f"{number}.mp4" for number in range(8)]
    ledger.media.record(TARGET, [facts(key, f"f-{key}") for key in keys])
    numbers = iter(range(10**6))

    def run(number: int) -> None:
        chance, owner = random.Random(number), f"p{number}"
        for turn in range(4):
            some = chance.sample(keys, 5)
            wishes = [wish(key, f"f-{key}") for key in some]
            outcomes = ledger.tasks.claim(
                TARGET,
                wishes,
                run_id=f"{owner}-{turn}",
                owner=owner,
                lease_sec=9,
                ask="force",
                limits=Limits(None, 1e9),
            )
            ledger.tasks.renew(owner, lease_sec=9)
            ledger.media.begin_work("", some, run_id=owner, lease_sec=9)
            ledger.media.record(TARGET, [facts(key, f"f-{key}", size=turn) for key in some], again=set(some))
            for outcome in outcomes.values():
                if not isinstance(outcome, Claimed):
                    continue
                row = outcome.task
                if not send(ledger, row):
                    continue
                what = chance.choice(["created", "collected", "failed", "refused", "released"])
                if what in {"created", "collected", "failed"}:
                    assert create(ledger, row, f"t{next(numbers)}", run_id=owner) is None
                    ledger.tasks.mark_ready([row.id])
                if what == "collected":
                    collect(ledger, ledger.tasks.latest(TARGET, [row.content])[row.content][0], *some)
                elif what == "failed":
                    end(ledger, row, TaskState.FAILED)
                elif what == "refused":
                    end(ledger, row, TaskState.REFUSED)
                elif what == "released":
                    ledger.tasks.release(row)
            ledger.media.request("", some, patience_sec=1)
            ledger.media.defer("", dict.fromkeys(some, ("waits", 1)))
            ledger.media.renew_work(run_id=owner, lease_sec=9)
            ledger.tasks.attach(TARGET, some, again=True)
            ledger.media.end_work(run_id=owner)

    together(*(lambda n=n: run(n) for n in range(3)))
    for key in keys:
        attempts = [row.attempt for row in task_rows(ledger, f"f-{key}")]
        assert attempts == list(range(1, len(attempts) + 1))
        (latest,) = latest_attempts(ledger, f"f-{key}")
        assert latest in attempts
    assert ledger.tasks.lapsed_claims(TARGET.platform) == []


def test_discoveries_side_by_side_record_each_file_once(ledger):
    files = [facts(f"{number}.mp4", f"f{number}") for number in range(30)]
    together(*(lambda n=n: ledger.media.record(TARGET, random.Random(n).sample(files, 30)) for n in range(5)))
    assert sorted(unreported(ledger)) == sorted(("content", file.key) for file in files)


def test_content_is_a_value(ledger):
    assert Content("f1", "video-1", TARGET.platform) == content()
    assert len({content(), Content("f1", "video-1", TARGET.platform)}) == 1


# One source, two contents


URL = "https://media.example.com/a.mp4"


def test_two_contents_of_one_source_are_not_asked_for_at_once(ledger, clock):
    first = claim(ledger, "a.mp4", "f1", source_url=URL)
    changed = try_claim(ledger, "a.mp4", "f2", owner="p2", source_url=URL)
    assert isinstance(changed, ClaimOutcome)
    assert (changed.step, changed.task) == (Step.WAIT, first)
    assert send(ledger, first)
    clock.move(LEASE_SEC + DOUBT_SEC - 1)
    waiting = try_claim(ledger, "a.mp4", "f2", owner="p2", source_url=URL)
    assert isinstance(waiting, ClaimOutcome), "its request may still be carried out"
    clock.move(1)
    claim(ledger, "a.mp4", "f2", owner="p2", source_url=URL)


def test_claims_of_other_sources_and_answered_ones_are_no_obstacle(ledger):
    submit(ledger, "a.mp4", "f1", task_id="t1", source_url=URL)
    claim(ledger, "a.mp4", "f2", source_url=URL)
    claim(ledger, "b.mp4", "f3", source_url=URL)
    claim(ledger, "a.mp4", "f4", source_url=None, source_filename="a.f4.mp4")
    claim(ledger, "a.mp4", "f5", source_url=None, source_filename="a.f5.mp4")


def test_claim_that_goes_on_keeps_the_name_of_what_was_uploaded_under_it(ledger, clock):
    upload = {"source_url": None, "source_filename": "a.f1.mp4"}
    ledger.tasks.note_upload(claim(ledger, "a.mp4", **upload), "asset-1")
    clock.move(LEASE_SEC)
    renamed = claim(ledger, "b.mp4", owner="p2", **(upload | {"source_filename": "b.f1.mp4"}))
    assert (renamed.asset_id, renamed.source_filename) == ("asset-1", "a.f1.mp4")
    clock.move(LEASE_SEC)
    read_in_place = claim(ledger, "b.mp4", owner="p3")
    assert (read_in_place.asset_id, read_in_place.source_filename) == (None, None)


def test_claim_whose_task_cannot_be_told_ends_as_failed_for_a_person(ledger):
    ledger.media.record(TARGET, [facts()])
    claimed = claim(ledger)
    assert send(ledger, claimed)
    end(ledger, claimed, TaskState.FAILED)
    assert media_row(ledger).state is MediaState.FAILED
    assert step_of(try_claim(ledger, owner="p2")) is Step.GIVE_UP
    assert claim(ledger, owner="p2", ask="failed").attempt == 2
