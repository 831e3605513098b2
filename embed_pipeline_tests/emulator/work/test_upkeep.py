from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from embed_pipeline.emulator import Sizes
from embed_pipeline.testing import TEST_SETTINGS, InProcessEmulator
from embed_pipeline_tests.emulator.conftest import TASKS, Caller

WEEK = 7 * 24 * 3600
UPLOADS = "/assets/multipart-uploads"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def results(emulator) -> list[str]:
    return [row[0] for row in emulator.emulator.platform.store.reader.execute("SELECT task_id FROM results")]


def test_expired_results_are_deleted_while_the_emulator_runs_and_their_disk_is_given_back(start):
    emulator = start(replace(TEST_SETTINGS, instant_duration_sec=1200.0))
    old = {emulator.created(f"https://media.example.com/{number}.mp4") for number in range(10)}
    emulator.emulator.finish()
    emulator.emulator.advance(WEEK - 600)
    young = emulator.created("https://media.example.com/young.mp4")
    emulator.emulator.finish()
    folder = emulator.emulator.platform.folder
    for task_id in old:
        emulator.retrieve(task_id)

    def on_disk() -> int:
        return sum(path.stat().st_size for path in folder.glob("emulator.sqlite3*"))

    full = on_disk()
    emulator.emulator.advance(1200)
    wait_until(lambda: results(emulator) == [young])
    wait_until(lambda: on_disk() < full / 4)
    wait_until(lambda: not {path.name for path in (folder / "bodies").iterdir()} & old)
    assert emulator.retrieve(young)["status"] == "ready"
    assert emulator.http.get(f"{TASKS}/{min(old)}").status_code == 404


def test_an_upload_that_was_not_completed_in_a_day_gives_its_disk_back_and_its_asset_fails(start):
    emulator = start(replace(TEST_SETTINGS, sizes=Sizes(chunk=1000)))
    request = {"filename": "a.mp4", "type": "video", "total_size": 1500}
    left, deleted = (emulator.http.post(UPLOADS, json=request).json() for _ in range(2))
    for upload in (left, deleted):
        sent = emulator.http.put(upload["upload_urls"][0]["url"], content=b"x" * 1000)
        assert sent.status_code == 200
    assert emulator.http.delete(f"/assets/{deleted['asset_id']}").status_code == 204
    folder = emulator.emulator.platform.folder / "uploads"
    assert len(list(folder.glob("*/1"))) == 2
    emulator.emulator.advance(24 * 3600)
    wait_until(lambda: not list(folder.glob("*/1")))
    wait_until(lambda: emulator.http.get(f"/assets/{left['asset_id']}").json()["status"] == "failed")
    asset = emulator.http.get(f"/assets/{left['asset_id']}").json()
    assert asset["error"]["message"] == "The upload was not completed within 24 hours."
    session = emulator.http.get(f"{UPLOADS}/{left['upload_id']}").json()
    assert (session["status"], session["uploaded_size"]) == ("expired", 0)
    wait_until(lambda: emulator.http.get(f"{UPLOADS}/{deleted['upload_id']}").status_code == 404)
    emulator.emulator.advance(WEEK + 1)
    wait_until(lambda: emulator.http.get(f"{UPLOADS}/{left['upload_id']}").status_code == 404)


@pytest.mark.parametrize("place", ["media", "assets"])
def test_what_a_killed_process_left_half_done_is_deleted_at_the_next_start(start, tmp_path, place):
    settings = replace(TEST_SETTINGS, state=tmp_path)
    with InProcessEmulator(settings) as killed:
        waiting = Caller(killed).created()
    (tmp_path / place / "0123456789abcdef01234567.part").write_bytes(b"half a file")
    emulator = start(settings)
    assert list((tmp_path / place).iterdir()) == []
    assert emulator.retrieve(waiting)["status"] == "processing"


def test_the_journal_reaches_the_disk_without_being_asked_for(start, tmp_path):
    emulator = start(replace(TEST_SETTINGS, state=tmp_path))
    task_id = emulator.created()

    def written() -> bool:
        with sqlite3.connect(f"file:{tmp_path / 'emulator.sqlite3'}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT task_id FROM journal").fetchall() == [(task_id,)]

    wait_until(written)
