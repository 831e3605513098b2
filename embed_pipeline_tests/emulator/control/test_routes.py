from __future__ import annotations

import time
from dataclasses import replace

import pytest

from embed_pipeline.emulator.control.behaviour import Switches, Timing
from embed_pipeline.testing import TEST_SETTINGS
from embed_pipeline_tests.emulator.conftest import TASKS


def worked(emulator, task_id: str) -> None:
    deadline = time.monotonic() + 20
    while emulator.emulator.platform.store.unfinished(task_id):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def timed(start, **timing):
    return start(replace(TEST_SETTINGS, timing=Timing(**timing)))


def test_a_task_is_ready_after_some_seconds(start):
    emulator = timed(start, after_sec=30)
    task_id = emulator.created()
    worked(emulator, task_id)
    emulator.emulator.advance(29.9)
    assert emulator.retrieve(task_id)["status"] == "processing"
    emulator.emulator.advance(0.1)
    ready = emulator.retrieve(task_id)
    assert ready["status"] == "ready"
    assert ready["updated_at"] > ready["created_at"]


def test_a_task_is_ready_after_some_polls_be_they_retrieves_or_lists(start):
    emulator = timed(start, after_polls=3)
    task_id = emulator.created()
    worked(emulator, task_id)
    assert emulator.retrieve(task_id)["status"] == "processing"
    assert emulator.http.get(TASKS).json()["data"][0]["status"] == "processing"
    assert emulator.retrieve(task_id)["status"] == "processing"
    assert emulator.retrieve(task_id)["status"] == "ready"


def test_a_task_takes_its_time_by_the_length_of_its_media(start):
    emulator = timed(start, per_media_sec=0.05)
    task_id = emulator.created()
    worked(emulator, task_id)
    emulator.emulator.advance(2.9)
    assert emulator.retrieve(task_id)["status"] == "processing"
    emulator.emulator.advance(0.2)
    assert emulator.retrieve(task_id)["status"] == "ready"


def test_every_waiting_task_is_released_at_once(emulator):
    ids = [emulator.created() for _ in range(3)]
    assert emulator.control("POST", "/tasks/release").json() == {"released": 3}
    for task_id in ids:
        worked(emulator, task_id)
        assert emulator.retrieve(task_id)["status"] == "ready"


def test_timing_changes_while_it_runs(emulator):
    held = emulator.created()
    assert emulator.control("PATCH", "/timing", {"on_command": False}).json()["on_command"] is False
    free = emulator.created()
    worked(emulator, free)
    assert emulator.retrieve(free)["status"] == "ready"
    assert emulator.retrieve(held)["status"] == "processing"
    for wrong in ({"on_command": 1}, {"after_sec": -1}, {"after_sec": "x"}, {"colour": 1}):
        assert emulator.control("PATCH", "/timing", wrong).status_code == 400


def test_a_task_fails_or_expires_on_command(emulator):
    failing, expiring = emulator.created(), emulator.created()
    assert emulator.control("POST", f"/tasks/{failing}/fail", {"message": "unstable"}).status_code == 200
    assert "temporarily unstable" in emulator.retrieve(failing)["error"]["message"]
    emulator.emulator.finish()
    assert emulator.retrieve(failing)["status"] == "failed"
    assert emulator.control("POST", f"/tasks/{expiring}/expire").status_code == 200
    assert emulator.http.get(f"{TASKS}/{expiring}").status_code == 404
    assert emulator.control("POST", f"/tasks/{'0' * 24}/fail").status_code == 404
    assert emulator.control("POST", f"/tasks/{failing}/explode").status_code == 404


def test_the_clock_moves_forward_only(emulator):
    before = emulator.control("GET", "/status").json()["now"]
    assert emulator.control("POST", "/clock", {"seconds": 5}).json()["now"] > before
    for wrong in ({"seconds": -1}, {"seconds": "x"}, {}, {"seconds": True}, {"seconds": 1e300}):
        assert emulator.control("POST", "/clock", wrong).status_code == 400


def test_the_journal_counts_what_was_paid_twice(emulator):
    for name in ("a", "b", "a"):
        emulator.created(f"https://media.example.com/{name}.mp4?token={time.time_ns()}")
    emulator.http.post(TASKS, json={})
    emulator.http.get(TASKS)
    summary = emulator.control("GET", "/journal/summary").json()
    assert summary == {
        "requests": {"create": {"202": 3, "400": 1}, "list": {"200": 1}},
        "tasks_created": 3,
        "embedded_at_once": 0,
        "repeated_sources": {"https://media.example.com/a.mp4": 2},
    }
    entries = emulator.control("GET", "/journal?endpoint=create&status=202").json()["entries"]
    assert [entry["task_id"] for entry in entries] == [task.id for task in reversed(emulator.emulator.tasks())]
    later = emulator.control("GET", f"/journal?after={entries[-1]['seq']}&limit=1").json()["entries"]
    assert [entry["status"] for entry in later] == [400]
    emulator.control("DELETE", "/journal")
    assert emulator.emulator.summary()["tasks_created"] == 0


def test_a_web_page_cannot_reach_the_control_api(emulator):
    origin = emulator.emulator.base_url.removesuffix("/v1.3")
    answer = emulator.http.delete(f"{origin}/_emulator/journal", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403


def test_metadata_may_show_while_a_task_is_processing(start):
    emulator = start(replace(TEST_SETTINGS, switches=Switches(metadata_while_processing=True)))
    task_id = emulator.created()
    worked(emulator, task_id)
    body = emulator.retrieve(task_id)
    assert (body["status"], body["metadata"]["duration"]) == ("processing", 60.0)


@pytest.mark.parametrize("path", ["/journal?status=x", "/journal?after=-1"])
def test_a_question_that_makes_no_sense_is_refused(emulator, path):
    assert emulator.control("GET", path).status_code == 400
