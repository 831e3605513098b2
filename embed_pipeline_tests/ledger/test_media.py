from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from embed_pipeline.ledger import Ledger, MediaState, Step, TaskState
from embed_pipeline.ledger.media import CHUNK, KnownFile
from embed_pipeline_tests.ledger.values import (
    LEASE_SEC,
    TARGET,
    claim,
    collect,
    content,
    facts,
    media_row,
    submit,
    unreported,
)

MANY = [f"{number:04}.mp4" for number in range(CHUNK + 3)]


def many(ledger: Ledger) -> list[str]:
    """Record more media files than fit into one statement."""
    ledger.media.record(TARGET, [facts(key, f"f-{key}") for key in MANY])
    return MANY


def requests_until(ledger: Ledger, clock, key: str, count: int) -> list[float]:
    """Request runs for a media file that come to nothing, and return how long each is waited for."""
    waits = []
    for _ in range(count):
        ledger.media.request("", [key], patience_sec=10)
        row = media_row(ledger, key)
        assert row.deferred_until is not None
        waits.append(row.deferred_until - clock.now)
        clock.move(waits[-1])
    return waits


# Discovery


def test_new_files_are_recorded_and_reported(ledger):
    rows = ledger.media.record(TARGET, [facts("b.mp4", size=7, token="t"), facts("a.wav", media_type="audio")])
    assert rows == []
    assert unreported(ledger) == [("content", "a.wav"), ("content", "b.mp4")]
    row = media_row(ledger, "b.mp4")
    assert (row.uri, row.media_type, row.fingerprint, row.size) == ("file:///library/b.mp4", "video", "f1", 7)
    assert (row.state, row.step, row.is_gone) == (MediaState.UNSUBMITTED, Step.SUBMIT, False)
    assert ledger.media.known("")["b.mp4"] == KnownFile("f1", "t", is_gone=False, has_task=False)


def test_run_that_records_files_reports_them_itself(ledger):
    rows = ledger.media.record(TARGET, [facts("b.mp4"), facts("a.mp4")], run_id="r1")
    assert [(row.kind, row.key, row.payload["fingerprint"]) for row in rows] == [
        ("content", "a.mp4", "f1"),
        ("content", "b.mp4", "f1"),
    ]
    assert unreported(ledger) == []


def test_file_that_did_not_change_gets_its_new_address_and_is_not_reported(ledger, clock):
    ledger.media.record(TARGET, [facts(token="old")])
    ledger.outbox.delete([row.id for row in ledger.outbox.unreported("")])
    before = ledger.changed_at("")
    clock.move(1)
    ledger.media.record(TARGET, [facts(token="new", size=9)])
    assert ledger.media.known("")["a.mp4"].token == "new"
    assert media_row(ledger).size == 9
    assert unreported(ledger) == []
    assert ledger.changed_at("") == before
    ledger.media.record(TARGET, [facts()], again={"a.mp4"})
    assert unreported(ledger) == [("content", "a.mp4")]


def test_file_whose_content_changed_needs_a_task_again(ledger, clock):
    ledger.media.record(TARGET, [facts(fingerprint="f1")])
    ledger.media.set_type("", {"a.mp4": ("audio", 12.5)})
    ledger.media.set_type("", {"a.mp4": ("video", 12.5)})
    collect(ledger, submit(ledger))
    ledger.media.defer("", {"a.mp4": ("waits", None)})
    clock.move(1)
    ledger.media.record(TARGET, [facts(fingerprint="f2")])
    row = media_row(ledger)
    assert (row.state, row.step, row.task_id, row.duration_sec) == (MediaState.UNSUBMITTED, Step.SUBMIT, None, None)
    assert (row.embedded_task_id, row.embedded_fingerprint) == ("t1", "f1")
    assert row.deferred_reason is None
    assert ledger.changed_at("") == clock.now


def test_file_that_gets_a_content_back_is_served_by_its_task(ledger):
    ledger.media.record(TARGET, [facts(fingerprint="f1")])
    collect(ledger, submit(ledger, fingerprint="f1"))
    ledger.media.record(TARGET, [facts(fingerprint="f2")])
    assert media_row(ledger).state is MediaState.UNSUBMITTED
    ledger.media.record(TARGET, [facts(fingerprint="f1")])
    assert media_row(ledger).state is MediaState.EMBEDDED


def test_new_name_of_a_known_content_is_attached_to_its_task_at_once(ledger):
    ledger.media.record(TARGET, [facts("a.mp4")])
    submit(ledger)
    rows = ledger.media.record(TARGET, [facts("b.mp4")], run_id="r1")
    assert [(row.kind, row.key) for row in rows] == [("content", "b.mp4"), ("task", "b.mp4")]
    assert (rows[1].payload["task_id"], rows[1].payload["origin"]) == ("t1", "attached")
    assert media_row(ledger, "b.mp4").task_id == "t1"


def test_new_name_is_not_attached_to_a_task_without_a_result(ledger):
    ledger.media.record(TARGET, [facts("a.mp4")])
    ledger.tasks.ended(TARGET, submit(ledger), TaskState.FAILED, "broken")
    ledger.media.record(TARGET, [facts("b.mp4")])
    row = media_row(ledger, "b.mp4")
    assert (row.task_id, row.state, row.step) == (None, MediaState.FAILED, Step.GIVE_UP)


def test_what_a_probe_found_is_kept_until_the_content_changes(ledger):
    ledger.media.record(TARGET, [facts()])
    ledger.media.set_type("", {"a.mp4": ("audio", 3.5)})
    ledger.media.record(TARGET, [facts(size=5)])
    row = media_row(ledger)
    assert (row.media_type, row.duration_sec) == ("audio", 3.5)
    ledger.media.record(TARGET, [facts(fingerprint="f2")])
    row = media_row(ledger)
    assert (row.media_type, row.duration_sec) == ("video", None)


def test_more_files_than_fit_into_one_statement(ledger):
    keys = many(ledger)
    assert ledger.keys("") == keys
    assert list(ledger.media.known("", keys)) == keys
    assert set(ledger.rows(TARGET, keys)) == set(keys)
    ledger.media.begin_work("", keys, run_id="r1", lease_sec=LEASE_SEC)
    ledger.media.request("", keys, patience_sec=1)
    ledger.media.mark_gone("", keys)
    assert all(file.is_gone for file in ledger.media.known("").values())
    ledger.media.report_again(TARGET, keys)
    ledger.media.remove_segments("", keys)
    assert len(ledger.outbox.unreported("", limit=10**6)) == 4 * len(keys)
    ledger.media.forget("", keys, retired=False)
    assert ledger.keys("") == []


def test_pipelines_do_not_see_each_others_files(ledger):
    ledger.media.record(TARGET, [facts("a.mp4")])
    assert ledger.media.known("other") == {}
    ledger.media.mark_gone("other", ["a.mp4"])
    ledger.media.forget("other", ["a.mp4"], retired=False)
    ledger.media.begin_work("other", ["a.mp4"], run_id="r1", lease_sec=9)
    row = media_row(ledger)
    assert (row.is_gone, row.run_id) == (False, None)


# Gone


def test_file_that_vanished_is_reported_once_and_nothing_is_done_for_it(ledger):
    ledger.media.record(TARGET, [facts()])
    ledger.media.defer("", {"a.mp4": ("waits", 60)})
    for _ in range(2):
        ledger.media.mark_gone("", ["a.mp4", "never-seen.mp4"])
    assert unreported(ledger) == [("content", "a.mp4"), ("gone", "a.mp4")]
    row = media_row(ledger)
    assert (row.state, row.step, row.is_gone, row.deferred_reason) == (MediaState.GONE, Step.NONE, True, None)
    assert ledger.due(TARGET, waiting=True) == []


def test_file_that_is_back_has_its_segments_still(ledger):
    ledger.media.record(TARGET, [facts()])
    collect(ledger, submit(ledger))
    ledger.media.mark_gone("", ["a.mp4"])
    assert ledger.media.known("")["a.mp4"].has_task
    ledger.media.record(TARGET, [facts()])
    assert media_row(ledger).state is MediaState.EMBEDDED
    assert unreported(ledger)[-1] == ("content", "a.mp4")


def test_forgotten_file_leaves_its_task(ledger):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4", "f2")])
    submit(ledger)
    ledger.media.forget("", ["a.mp4"], retired=True)
    ledger.media.forget("", ["b.mp4"], retired=False)
    assert ledger.keys("") == []
    assert unreported(ledger)[-1] == ("retired", "a.mp4")
    ledger.media.record(TARGET, [facts("c.mp4")])
    assert media_row(ledger, "c.mp4").task_id == "t1"


def test_removed_segments_are_to_be_collected_again(ledger):
    ledger.media.record(TARGET, [facts()])
    row = submit(ledger)
    collect(ledger, row, problems={"gaps": "3"})
    ledger.media.remove_segments("", ["a.mp4"])
    found = media_row(ledger)
    assert (found.state, found.embedded_task_id, found.segments, dict(found.problems)) == (
        MediaState.PROCESSING, None, None, {},
    )  # fmt: skip
    assert [file.key for file in ledger.pending("")] == ["a.mp4"]


# Reports for an instance that knows nothing


def test_everything_known_is_reported_again(ledger):
    files = ["claimed", "embedded", "expired", "failed", "gone", "new", "processing", "refused"]
    ledger.media.record(TARGET, [facts(name, name) for name in files])
    rows = {
        name: submit(ledger, name, name, task_id=f"t-{name}")
        for name in files
        if name not in {"new", "claimed", "refused"}
    }
    claim(ledger, "claimed", "claimed")
    ledger.tasks.ended(TARGET, claim(ledger, "refused", "refused"), TaskState.REFUSED, "too long")
    ledger.tasks.ended(TARGET, rows["failed"], TaskState.FAILED, "broken")
    ledger.tasks.ended(TARGET, rows["expired"], TaskState.EXPIRED, "too late")
    for name in ("embedded", "gone"):
        ledger.tasks.mark_ready([rows[name].id])
        collect(ledger, rows[name])
    ledger.media.mark_gone("", ["gone"])
    ledger.outbox.delete([row.id for row in ledger.outbox.unreported("", limit=10**6)])
    ledger.media.report_again(TARGET, ledger.keys(""))
    told: dict[str, list[str]] = {name: [] for name in files}
    for kind, key in unreported(ledger):
        told[key].append(kind)
    assert told == {
        "claimed": ["content"],
        "embedded": ["content", "task", "segments"],
        "expired": ["content", "task", "failure"],
        "failed": ["content", "task", "failure"],
        "gone": ["content", "gone", "task", "segments"],
        "new": ["content"],
        "processing": ["content", "task"],
        "refused": ["content", "failure"],
    }


# Requests and deferrals


def test_run_that_was_requested_is_waited_for(ledger, clock):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4", "f2")])
    ledger.media.request("", ["a.mp4"], patience_sec=10)
    assert [file.key for file in ledger.due(TARGET)] == ["b.mp4"]
    assert [file.key for file in ledger.due(TARGET, waiting=True)] == ["a.mp4", "b.mp4"]
    assert media_row(ledger).deferred_reason == "a run was requested for it"
    clock.move(10)
    assert [file.key for file in ledger.due(TARGET)] == ["a.mp4", "b.mp4"]


def test_requests_without_progress_grow_apart(ledger, clock):
    ledger.media.record(TARGET, [facts()])
    assert requests_until(ledger, clock, "a.mp4", 12) == [10, 10, 10, 10, 20, 40, 80, 160, 320, 640, 640, 640]
    ledger.media.request("", ["a.mp4"], patience_sec=600)
    row = media_row(ledger)
    assert row.requests == 13
    assert row.deferred_until == clock.now + 3600


@pytest.mark.parametrize("progress", ["work", "task", "failure", "content"])
def test_requests_are_counted_anew_after_progress(ledger, clock, progress):
    ledger.media.record(TARGET, [facts()])
    requests_until(ledger, clock, "a.mp4", 6)
    if progress == "work":
        ledger.media.begin_work("", ["a.mp4"], run_id="r1", lease_sec=9)
    elif progress == "task":
        submit(ledger)
    elif progress == "failure":
        ledger.tasks.ended(TARGET, claim(ledger), TaskState.REFUSED, "too long")
    else:
        ledger.media.record(TARGET, [facts(fingerprint="f2")])
    row = media_row(ledger)
    assert (row.requests, row.deferred_reason, row.deferred_until) == (0, None, None)


def test_deferral_says_since_when_for_the_same_reason(ledger, clock):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4", "f2")])
    ledger.media.defer("", {"a.mp4": ("daily limit reached", 60), "b.mp4": ("no slot", None)})
    first = clock.now
    clock.move(61)
    assert [file.key for file in ledger.due(TARGET)] == ["a.mp4", "b.mp4"]
    ledger.media.defer("", {"a.mp4": ("daily limit reached", 60), "b.mp4": ("no such bucket", 5)})
    row, other = media_row(ledger, "a.mp4"), media_row(ledger, "b.mp4")
    assert (row.deferred_since, row.deferred_until) == (first, clock.now + 60)
    assert (other.deferred_since, other.deferred_until) == (clock.now, clock.now + 5)
    assert ledger.due(TARGET) == []


def test_deferral_of_unknown_length_does_not_keep_a_file_from_being_due(ledger):
    ledger.media.record(TARGET, [facts()])
    ledger.media.defer("", {"a.mp4": ("no slot", None)})
    assert [file.key for file in ledger.due(TARGET)] == ["a.mp4"]


# Runs at work


def test_file_that_a_run_works_on_is_not_due(ledger, clock):
    ledger.media.record(TARGET, [facts()])
    ledger.media.begin_work("", ["a.mp4"], run_id="r1", lease_sec=LEASE_SEC)
    row = media_row(ledger)
    assert (row.run_id, row.lease_until) == ("r1", clock.now + LEASE_SEC)
    assert ledger.due(TARGET) == []
    clock.move(LEASE_SEC - 1)
    ledger.media.renew_work(run_id="r1", lease_sec=LEASE_SEC)
    clock.move(LEASE_SEC - 1)
    assert ledger.due(TARGET) == []
    clock.move(1)
    assert [file.key for file in ledger.due(TARGET)] == ["a.mp4"]


def test_tries_that_nothing_came_of_are_counted(ledger, clock):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4", "f2")])
    for number in range(3):
        ledger.media.begin_work("", ["a.mp4", "b.mp4"], run_id=f"r{number}", lease_sec=LEASE_SEC)
        assert media_row(ledger).interruptions == number
        ledger.media.count_try("", ["a.mp4"])
        clock.move(LEASE_SEC)
    assert {file.key: file.interruptions for file in ledger.due(TARGET)} == {"a.mp4": 3, "b.mp4": 0}
    ledger.media.begin_work("", ["a.mp4"], run_id="r3", lease_sec=LEASE_SEC)
    assert media_row(ledger).interruptions == 3
    ledger.media.end_work(run_id="r3")
    row = media_row(ledger)
    assert (row.run_id, row.lease_until, row.interruptions) == (None, None, 0)


def test_try_that_the_process_outlived_is_not_counted(ledger):
    ledger.media.record(TARGET, [facts()])
    ledger.media.count_try("", ["a.mp4"])
    ledger.media.set_type("", {"a.mp4": ("audio", 5.0)})
    assert media_row(ledger).interruptions == 0
    ledger.media.count_try("", ["a.mp4"])
    collect(ledger, submit(ledger, content=content(digest="audio-1")))
    assert media_row(ledger).interruptions == 0


def test_failures_in_a_row_are_counted(ledger):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4", "f2")])
    for number in range(1, 4):
        ledger.media.defer(
            "", {"a.mp4": (f"reset [request {number}]", 60), "b.mp4": ("no slot", None)}, failed=["a.mp4"]
        )
        assert [media_row(ledger, key).failures for key in ("a.mp4", "b.mp4")] == [number, 0]
    submit(ledger)
    assert media_row(ledger).failures == 0


def test_file_that_another_run_works_on_stays_with_it(ledger):
    ledger.media.record(TARGET, [facts()])
    ledger.media.begin_work("", ["a.mp4"], run_id="r1", lease_sec=LEASE_SEC)
    ledger.media.begin_work("", ["a.mp4"], run_id="r2", lease_sec=LEASE_SEC)
    assert media_row(ledger).run_id == "r1"
    ledger.media.end_work(run_id="r2")
    assert media_row(ledger).run_id == "r1"


def test_file_that_many_runs_begin_with_at_once_goes_to_one(ledger):
    keys = [f"{number}.mp4" for number in range(20)]
    ledger.media.record(TARGET, [facts(key, key) for key in keys])
    with ThreadPoolExecutor(5) as pool:
        runs = [f"r{number}" for number in range(5)]
        list(pool.map(lambda run: ledger.media.begin_work("", keys[::-1], run_id=run, lease_sec=LEASE_SEC), runs))
    rows = ledger.rows(TARGET, keys)
    assert len({row.run_id for row in rows.values()}) == 1
    assert {row.interruptions for row in rows.values()} == {0}
