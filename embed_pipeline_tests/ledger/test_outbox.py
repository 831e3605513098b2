from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from embed_pipeline.ledger import Ledger, TaskState
from embed_pipeline.ledger.tables import media
from embed_pipeline_tests.ledger.values import DAY_SEC, LEASE_SEC, TARGET, claim, collect, facts, submit, unreported


def ids(ledger: Ledger, **options) -> list[int]:
    return [row.id for row in ledger.outbox.unreported("", **options)]


def test_rows_wait_until_they_are_deleted(ledger, clock):
    ledger.media.record(TARGET, [facts("a.mp4", size=5), facts("b.mp4", "f2")])
    rows = ledger.outbox.unreported("")
    assert [(row.key, row.asset, row.kind, row.created_at) for row in rows] == [
        ("a.mp4", "media_files", "content", clock.now),
        ("b.mp4", "media_files", "content", clock.now),
    ]
    assert rows[0].payload == {
        "fingerprint": "f1", "uri": "file:///library/a.mp4", "media_type": "video", "size": 5,
    }  # fmt: skip
    assert ledger.outbox.unreported("") == rows
    ledger.outbox.delete([rows[0].id])
    assert ledger.outbox.unreported("") == rows[1:]
    ledger.outbox.delete([])
    ledger.outbox.delete([rows[0].id, rows[1].id])
    assert ledger.outbox.unreported("") == []


def test_each_kind_belongs_to_an_asset(ledger):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4", "f2")])
    row = submit(ledger)
    collect(ledger, row)
    ledger.tasks.ended(TARGET, row, TaskState.EXPIRED, "too late")
    ledger.media.mark_gone("", ["a.mp4"])
    ledger.media.forget("", ["a.mp4"], retired=True)
    assert [(row.kind, row.asset) for row in ledger.outbox.unreported("") if row.key == "a.mp4"] == [
        ("content", "media_files"),
        ("task", "embedding_tasks"),
        ("segments", "segment_embeddings"),
        ("failure", "embedding_tasks"),
        ("gone", "media_files"),
        ("retired", "segment_embeddings"),
    ]


def test_rows_of_a_live_run_are_its_own_to_report(ledger, clock):
    rows = ledger.media.record(TARGET, [facts()], run_id="r1")
    assert len(rows) == 1
    assert ids(ledger) == []
    assert ledger.outbox.count("") == 1
    clock.move(29)
    assert ids(ledger) == []
    clock.move(1)
    assert ids(ledger) == [rows[0].id]


def test_run_reports_only_the_partitions_that_it_has(ledger):
    ledger.media.record(TARGET, [facts("a.mp4"), facts("b.mp4")])
    ledger.outbox.delete(ids(ledger))
    claimed = claim(ledger)
    rows, _ = ledger.tasks.created(TARGET, claimed, task_id="t1", lifetime_sec=DAY_SEC, own={"b.mp4"}, run_id="r1")
    assert [row.key for row in rows] == ["b.mp4"]
    assert unreported(ledger) == [("task", "a.mp4")]


def test_later_change_of_a_file_waits_for_the_report_of_the_earlier_one(ledger, clock):
    (own,) = ledger.media.record(TARGET, [facts("a.mp4")], run_id="r1")
    ledger.media.mark_gone("", ["a.mp4"])
    ledger.media.record(TARGET, [facts("b.mp4")])
    assert unreported(ledger) == [("content", "b.mp4")]
    ledger.outbox.delete([own.id])
    assert unreported(ledger) == [("gone", "a.mp4"), ("content", "b.mp4")]


def test_earlier_change_does_not_wait_for_a_later_one(ledger):
    ledger.media.record(TARGET, [facts("a.mp4")])
    submit(ledger)
    ledger.media.record(TARGET, [facts("a.mp4", "f2")], run_id="r1")
    assert unreported(ledger) == [("content", "a.mp4"), ("task", "a.mp4")]


def test_what_a_dead_run_left_is_reported_in_order(ledger, clock):
    ledger.media.record(TARGET, [facts("a.mp4")], run_id="dead")
    clock.move(20)
    ledger.media.mark_gone("", ["a.mp4"])
    assert unreported(ledger) == []
    clock.move(10)
    assert unreported(ledger) == [("content", "a.mp4"), ("gone", "a.mp4")]


def test_files_that_wait_do_not_hold_up_the_others(ledger):
    busy = [f"{number}.mp4" for number in range(10)]
    ledger.media.record(TARGET, [facts(key, key) for key in busy], run_id="r1")
    ledger.media.mark_gone("", busy)
    ledger.media.record(TARGET, [facts("z.mp4", "z")])
    assert [row.key for row in ledger.outbox.unreported("", limit=3)] == ["z.mp4"]


def test_rows_come_oldest_first_and_no_more_than_asked_for(ledger):
    ledger.media.record(TARGET, [facts(f"{number}.mp4", f"f{number}") for number in range(9)])
    first = ids(ledger, limit=4)
    ledger.outbox.delete(first)
    rest = ids(ledger, limit=40)
    assert (len(first), len(rest)) == (4, 5)
    assert first + rest == sorted(first + rest)


def test_outboxes_of_pipelines_are_apart(ledger):
    ledger.media.record(TARGET, [facts()])
    assert ledger.outbox.unreported("other") == []
    assert ledger.outbox.count("other") == 0


def test_number_of_a_deleted_row_does_not_come_back(ledger):
    ledger.media.record(TARGET, [facts("a.mp4")])
    (deleted,) = ids(ledger)
    ledger.outbox.delete([deleted])
    ledger.media.record(TARGET, [facts("b.mp4")])
    assert ids(ledger) > [deleted]


def test_change_that_was_rolled_back_leaves_no_row(ledger, monkeypatch):
    ledger.media.record(TARGET, [facts()])
    before = ids(ledger)

    def fail(*_args, **_options):
        raise RuntimeError("killed")

    monkeypatch.setattr("embed_pipeline.ledger.media.attach", fail)
    with pytest.raises(RuntimeError, match="killed"):
        ledger.media.record(TARGET, [facts(fingerprint="f2")])
    assert ids(ledger) == before
    assert ledger.media.known("")["a.mp4"].fingerprint == "f1"


@pytest.mark.server
def test_rows_of_a_file_are_in_the_order_of_its_changes_from_many_processes(postgres_url):
    """A row that is numbered before an earlier change is committed would be reported before it."""
    keys = [f"{number}.mp4" for number in range(4)]
    with Ledger(postgres_url) as ledger:
        ledger.media.record(TARGET, [facts(key, "0") for key in keys])
        ledger.outbox.delete(ids(ledger))
        seen: dict[str, list[str]] = {key: [] for key in keys}

        def change(number: int) -> None:
            for turn in range(8):
                some = keys if (number + turn) % 2 else keys[::-1]
                ledger.media.record(TARGET, [facts(key, f"{number}-{turn}") for key in some])

        def report() -> int:
            rows = ledger.outbox.unreported("", limit=7)
            for row in rows:
                seen[row.key].append(row.payload["fingerprint"])
            ledger.outbox.delete([row.id for row in rows])
            return len(rows)

        with ThreadPoolExecutor(4) as pool:
            changing = [pool.submit(change, number) for number in range(4)]
            while not all(future.done() for future in changing):
                report()
            for future in changing:
                future.result()
        while report():
            pass
        for key, fingerprints in seen.items():
            assert len(fingerprints) == len(set(fingerprints)) == 32
            assert fingerprints[-1] == ledger.media.known("")[key].fingerprint


def test_task_of_a_file_that_nobody_has_any_more_is_recorded_without_a_report(ledger):
    ledger.media.record(TARGET, [facts("a.mp4")])
    claimed = claim(ledger)
    assert ledger.tasks.mark_sent(claimed, lease_sec=LEASE_SEC, doubt_sec=LEASE_SEC)
    with ledger.database.write() as (connection, _):
        connection.execute(sa.delete(media))
    ledger.outbox.delete(ids(ledger))
    ledger.tasks.created(TARGET, claimed, task_id="t1", lifetime_sec=DAY_SEC)
    assert ids(ledger) == []
    assert ledger.tasks.known_ids(["t1"]) == {"t1"}
