from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from embed_pipeline.ledger import Ledger, Limits, MediaState, Step, TaskState
from embed_pipeline.ledger.tables import media
from embed_pipeline_tests.ledger.values import (
    DAY_SEC,
    DOUBT_SEC,
    LEASE_SEC,
    TARGET,
    claim,
    collect,
    content,
    facts,
    media_row,
    segments,
    submit,
    task_row,
    wish,
)

# Code points and a language's alphabet order these differently.
KEYS = ["A.mp4", "B.mp4", "a b.mp4", "a.mp4", "a/b.mp4", "b.mp4", "z.mp4", "ä.mp4", "é.mp4", "映画.mp4", "🎬.mp4"]
OTHER = replace(TARGET, pipeline="other")


def due(ledger: Ledger, target=TARGET, **options) -> dict[str, Step]:
    return {file.key: file.step for file in ledger.due(target, **options)}


# All files


def test_files_come_in_the_order_of_their_keys(ledger):
    ledger.media.record(TARGET, [facts(key, key) for key in reversed(KEYS)])
    assert ledger.keys("") == KEYS
    assert list(ledger.states(TARGET)) == KEYS
    assert [row.key for row in ledger.all_rows(TARGET)] == KEYS
    assert [row.key for row in ledger.overview(TARGET)] == KEYS


def test_files_in_some_states_only(ledger):
    ledger.media.record(TARGET, [facts(f"{number}.mp4", f"f{number}") for number in range(4)])
    collect(ledger, submit(ledger, "0.mp4", "f0", task_id="t0"))
    submit(ledger, "1.mp4", "f1", task_id="t1")
    ledger.media.mark_gone("", ["3.mp4"])
    wanted = [MediaState.EMBEDDED, MediaState.GONE]
    assert [row.key for row in ledger.all_rows(TARGET, states=wanted)] == ["0.mp4", "3.mp4"]
    assert ledger.counts(TARGET) == {
        MediaState.UNSUBMITTED: 1, MediaState.PROCESSING: 1, MediaState.EMBEDDED: 1, MediaState.FAILED: 0,
        MediaState.EXPIRED: 0, MediaState.GONE: 1,
    }  # fmt: skip


def test_some_files_with_their_tasks(ledger):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4", "f2")])
    row = submit(ledger)
    rows = ledger.rows(TARGET, ["b.mp4", "a.mp4", "unknown.mp4"])
    assert (rows["a.mp4"].task, rows["b.mp4"].task) == (row, None)
    assert "unknown.mp4" not in rows


def test_audio_and_video_want_settings_of_their_own(ledger):
    ledger.media.record(TARGET, [facts("a.wav", media_type="audio"), facts("a.mp4")])
    submit(ledger, "a.wav", content=content(digest="audio-1"), media_type="audio")
    assert media_row(ledger, "a.wav").state is MediaState.PROCESSING
    assert media_row(ledger, "a.mp4").state is MediaState.UNSUBMITTED
    alike = replace(TARGET, video_digest="audio-1")
    ledger.tasks.attach(alike, ["a.mp4"])
    assert media_row(ledger, "a.mp4", alike).task_id == "t1"


# What is due


def test_new_file_is_due_until_its_task_is_created(ledger):
    ledger.media.record(TARGET, [facts()])
    assert due(ledger) == {"a.mp4": Step.SUBMIT}
    claimed = claim(ledger)
    assert due(ledger) == {}
    ledger.tasks.created(TARGET, claimed, task_id="t1", lifetime_sec=DAY_SEC)
    assert due(ledger) == {}
    assert [file.task_id for file in ledger.pending("")] == ["t1"]


def test_due_file_says_what_a_run_needs_to_know(ledger):
    ledger.media.record(TARGET, [facts()])
    ledger.media.set_type("", {"a.mp4": ("video", 61.5)})
    (file,) = ledger.due(TARGET)
    assert (file.key, file.step, file.interruptions) == ("a.mp4", Step.SUBMIT, 0)
    assert (file.media_type, file.duration_sec) == ("video", 61.5)


def test_claim_of_a_run_that_died_is_due_for_recovery(ledger, clock):
    ledger.media.record(TARGET, [facts()])
    claimed = claim(ledger)
    ledger.tasks.mark_sent(claimed, lease_sec=LEASE_SEC, doubt_sec=DOUBT_SEC)
    assert due(ledger) == {}
    clock.move(LEASE_SEC)
    assert due(ledger) == {"a.mp4": Step.RECOVER}
    ledger.tasks.take_over([claimed], owner="p2", lease_sec=LEASE_SEC)
    assert due(ledger) == {}


def test_task_that_another_pipeline_created_is_due_to_be_attached(ledger):
    """Each pipeline has media files of its own, and nobody else attaches them."""
    ledger.media.record(TARGET, [facts("a.mp4")])
    ledger.media.record(OTHER, [facts("b.mp4")])
    row = submit(ledger, "a.mp4")
    assert due(ledger, OTHER) == {"b.mp4": Step.WAIT}
    ledger.tasks.mark_ready([row.id])
    assert due(ledger, OTHER) == {"b.mp4": Step.COLLECT}
    assert ledger.pending("other") == []
    ledger.tasks.attach(OTHER, ["b.mp4"])
    assert due(ledger, OTHER) == {}
    assert [file.key for file in ledger.pending("other")] == ["b.mp4"]


def test_settings_that_are_changed_back_find_the_tasks_that_they_had(ledger):
    other = replace(TARGET, video_digest="video-2")
    ledger.media.record(TARGET, [facts()])
    first = submit(ledger, task_id="t1")
    collect(ledger, first)
    assert due(ledger, other) == {"a.mp4": Step.SUBMIT}
    second = submit(ledger, content=content(digest="video-2"), task_id="t2", target=other)
    ledger.tasks.collected(other, second, [segments()])
    assert media_row(ledger, target=other).state is MediaState.EMBEDDED
    assert media_row(ledger).state is MediaState.PROCESSING
    assert due(ledger) == {"a.mp4": Step.COLLECT}
    ledger.tasks.attach(TARGET, ["a.mp4"])
    assert [file.task_id for file in ledger.pending("")] == ["t1"]
    collect(ledger, task_row(ledger, first.id))
    assert due(ledger) == {}
    assert media_row(ledger).state is MediaState.EMBEDDED


def test_failed_file_is_due_when_another_attempt_may_follow(ledger, clock):
    ledger.media.record(TARGET, [facts()])
    ledger.tasks.ended(TARGET, submit(ledger), TaskState.RETRYABLE, "busy", retry_after_sec=60)
    assert due(ledger) == {}
    clock.move(60)
    assert due(ledger) == {"a.mp4": Step.SUBMIT}


# What is pending


def test_pending_files_come_oldest_task_first(ledger, clock):
    ledger.media.record(TARGET, [facts("a.mp4", "f1"), facts("b.mp4", "f2"), facts("c.mp4", "f2")])
    submit(ledger, "b.mp4", "f2", task_id="t2")
    clock.move(5)
    row = submit(ledger, "a.mp4", "f1", task_id="t1")
    ledger.tasks.mark_ready([row.id])
    ledger.media.begin_work("", ["c.mp4"], run_id="r1", lease_sec=LEASE_SEC)
    ledger.media.request("", ["b.mp4"], patience_sec=10)
    found = [(file.key, file.task_id, file.state, file.created_at, file.is_free) for file in ledger.pending("")]
    assert found == [
        ("b.mp4", "t2", TaskState.PROCESSING, clock.now - 5, False),
        ("c.mp4", "t2", TaskState.PROCESSING, clock.now - 5, False),
        ("a.mp4", "t1", TaskState.READY, clock.now, True),
    ]
    assert {file.platform for file in ledger.pending("")} == {TARGET.platform}
    clock.move(LEASE_SEC)
    assert all(file.is_free for file in ledger.pending(""))


def test_file_is_pending_until_its_segments_are_written_under_its_name(ledger):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4")])
    row = submit(ledger)
    collect(ledger, row, "a.mp4")
    assert [(file.key, file.state) for file in ledger.pending("")] == [("b.mp4", TaskState.COLLECTED)]
    collect(ledger, row, "b.mp4")
    assert ledger.pending("") == []
    assert ledger.embedded_under("", "t1") == ["a.mp4", "b.mp4"]


def test_result_is_fetched_even_for_a_file_that_vanished_meanwhile(ledger):
    """It has been paid for, and the file may be back tomorrow."""
    ledger.media.record(TARGET, [facts()])
    submit(ledger)
    ledger.media.mark_gone("", ["a.mp4"])
    assert [file.key for file in ledger.pending("")] == ["a.mp4"]


# What the dataset should have


def test_segment_sets_and_problems(ledger):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4"), facts("c.mp4", "f2")])
    row = submit(ledger)
    collect(ledger, row, "a.mp4", problems={"gaps": "2 s"})
    collect(ledger, row, "b.mp4")
    ledger.media.mark_gone("", ["b.mp4"])
    assert ledger.segment_sets("", gone=False) == {"a.mp4": "video-1"}
    assert ledger.segment_sets("", gone=True) == {"a.mp4": "video-1", "b.mp4": "video-1"}
    assert ledger.problems("") == {"a.mp4": {"gaps": "2 s"}}
    collect(ledger, row, "a.mp4")
    assert ledger.problems("") == {}


def test_contents_that_a_present_file_waits_for(ledger):
    ledger.media.record(
        TARGET, [facts("a.mp4", "f1"), facts("b.mp4", "f2"), facts("c.mp4", "f3"), facts("d.mp4", "f3")]
    )
    collect(ledger, submit(ledger, "a.mp4", "f1"))
    ledger.media.mark_gone("", ["b.mp4"])
    assert ledger.awaited_contents(TARGET) == {"f3"}


# Money


def test_minutes_are_billed_to_the_file_that_they_were_spent_for(ledger):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4")])
    ledger.tasks.ended(TARGET, submit(ledger, minutes=2.5), TaskState.RETRYABLE, "busy")
    submit(ledger, minutes=2.5, task_id="t2")
    submit(ledger, "c.mp4", "f3", minutes=None, task_id="t3")
    claim(ledger, "d.mp4", "f4")
    assert ledger.minutes_billed("") == {"a.mp4": (5.0, 2), "c.mp4": (None, 1)}
    assert ledger.minutes_billed("other") == {}


def test_nothing_was_spent_in_a_new_ledger(ledger):
    spending = ledger.spent_today(TARGET)
    assert (spending.minutes, spending.frees_at) == (0.0, None)


# Notes


def test_times_are_noted_for_each_pipeline(ledger):
    assert set(ledger.noted("").values()) == {None}
    ledger.note("", imported_at=5.0)
    ledger.note("", table_built_at=7.0)
    ledger.note("other", imported_at=9.0)
    assert (ledger.noted("")["imported_at"], ledger.noted("")["table_built_at"]) == (5.0, 7.0)
    assert ledger.noted("other")["imported_at"] == 9.0


def test_last_change_is_one_that_the_table_shows(ledger, clock):
    assert ledger.changed_at("") is None
    ledger.media.record(TARGET, [facts()])
    recorded = clock.now
    clock.move(1)
    ledger.media.begin_work("", ["a.mp4"], run_id="r1", lease_sec=LEASE_SEC)
    ledger.media.request("", ["a.mp4"], patience_sec=1)
    assert ledger.changed_at("") == recorded
    submit(ledger)
    assert ledger.changed_at("") == clock.now
    clock.move(1)
    ledger.tasks.ended(TARGET, task_row(ledger, 1), TaskState.FAILED, "broken")
    assert ledger.changed_at("") == clock.now


# How the questions are answered


def ask(ledger: Ledger, question: str) -> None:
    if question == "pending":
        ledger.pending("")
    elif question == "due":
        ledger.due(TARGET)
    elif question == "claim":
        ledger.tasks.claim(
            TARGET, [wish()], run_id="r1", owner="p1", lease_sec=LEASE_SEC, limits=Limits(per_run=9, per_day=9)
        )
    elif question == "renew":
        ledger.tasks.renew("p1", lease_sec=LEASE_SEC)
        ledger.media.renew_work(run_id="r1", lease_sec=LEASE_SEC)
    elif question == "report":
        ledger.outbox.unreported("")
    else:
        ledger.media.record(TARGET, [facts()])
        claimed = claim(ledger)
        ledger.tasks.created(TARGET, claimed, task_id="t1", lifetime_sec=DAY_SEC)
        collect(ledger, replace(claimed, task_id="t1"))
        ledger.tasks.ended(TARGET, claimed, TaskState.EXPIRED, "too late")


@pytest.mark.parametrize("question", ["pending", "due", "claim", "renew", "report", "record"])
def test_no_question_reads_a_whole_table(tmp_path, question):
    """It would take seconds with a million media files."""
    plans: list[str] = []

    def explain(_connection, cursor, statement, parameters, _context, executemany):
        if not executemany and statement.startswith(("SELECT", "UPDATE")):
            explained = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(detail for *_, detail in explained)

    with Ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.now()
        event.listen(ledger.database._engine, "before_cursor_execute", explain)
        ask(ledger, question)
    assert any(plan.startswith("SEARCH") for plan in plans)
    assert [plan for plan in plans if plan.startswith("SCAN") and plan != "SCAN CONSTANT ROW"] == []


def test_rows_of_media_are_not_shared_between_pipelines(ledger):
    ledger.media.record(TARGET, [facts()])
    ledger.media.record(OTHER, [facts(fingerprint="f2")])
    with ledger.database.read() as (connection, _):
        assert connection.execute(sa.select(sa.func.count()).select_from(media)).scalar_one() == 2
    assert media_row(ledger, target=OTHER).fingerprint == "f2"
    assert media_row(ledger).fingerprint == "f1"
