"""Reasons that people read about each media file: why it has no segments, and what it waits for."""

from __future__ import annotations

from embed_pipeline.pipeline.publish import read_statuses
from embed_pipeline_tests.world import World


def reason(world: World, key: str) -> str:
    with world.pipeline() as pipeline:
        return next(row.reason for row in read_statuses(pipeline) if row.media == key)


def test_a_passing_failure_is_told_as_one_until_its_attempts_are_used_up(world: World) -> None:
    world = world.varied(retry_backoff_sec=3600.0)
    world.faults({"kind": "fail", "message": "unstable"})
    world.add("one.wav")
    world.settle()

    assert world.states() == {"one.wav": "failed"}
    assert "(attempt 1 of 3; it is tried again by itself after " in reason(world, "one.wav")
    assert "tried again" not in reason(world.varied(max_attempts=1), "one.wav")


def test_an_unsubmitted_file_tells_the_limit_that_it_waits_for(world: World) -> None:
    world = world.varied(max_minutes_per_day=5.0 / 60)
    world.add("one.wav", "two.wav")
    world.settle()

    assert world.states() == {"one.wav": "embedded", "two.wav": "unsubmitted"}
    assert "max_minutes_per_day is reached" in reason(world, "two.wav")
    assert "since " in reason(world, "two.wav")
    assert reason(world, "one.wav") == ""


def test_an_unsubmitted_file_tells_that_somebody_must_ask(world: World) -> None:
    world = world.varied(submit_automatically=False)
    world.add("one.wav")
    world.discover()

    assert "submit_automatically is off" in reason(world, "one.wav")


def test_what_a_run_deferred_has_its_reason_until_it_is_submitted(world: World) -> None:
    world = world.varied(max_minutes_per_run=12.0 / 60, submit_automatically=False)
    names = [f"{letter}.wav" for letter in "abcde"]
    world.add(*names)
    world.discover()

    assert world.submit(names[0], names[-1]).success

    assert reason(world, "a.wav") == ""
    for name in names[2:]:
        assert reason(world, name).startswith("deferred: max_minutes_per_run is reached: 0.0 min are left, too few")
    assert world.submit("c.wav", "d.wav").success
    assert reason(world, "c.wav") == ""
    assert "max_minutes_per_run" in reason(world, "e.wav")
    world.add("e.wav", first_seed=99)
    world.discover()
    assert "submit_automatically is off" in reason(world, "e.wav"), "what was said of other content is past"


def test_a_task_that_is_stuck_and_a_result_that_is_about_to_expire_say_so(world: World) -> None:
    world.add("one.wav")
    world.discover()
    assert world.states() == {"one.wav": "processing"}

    assert reason(world, "one.wav") == ""
    stuck = world.varied(stuck_after_sec=1e-6)
    assert "has been processing for" in reason(stuck, "one.wav")
    assert "ask the platform about the task" in reason(stuck, "one.wav")
    assert "expires in 7 days" in reason(stuck.varied(expiry_alarm_sec=7 * 86400.0), "one.wav")
