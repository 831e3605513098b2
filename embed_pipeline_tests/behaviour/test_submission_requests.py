"""Which submissions discovery and the schedule ask for: other settings, the day's minutes, backoff."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from embed_pipeline import EmbeddingSettings, Segmentation
from embed_pipeline.emulator import Emulator
from embed_pipeline.orchestration.definitions import build_definitions
from embed_pipeline.orchestration.resources import EmbeddingStoreResource
from embed_pipeline_tests.world import World

OTHER_SOUND = EmbeddingSettings(audio_segmentation=Segmentation(strategy="fixed", seconds=3))
MINUTES = 5 / 60  # of one test file


def test_discovery_finds_the_tasks_of_other_settings_and_comes_to_rest(world: World) -> None:
    world.add("one.wav", "two.wav", "three.wav")
    world.settle()
    before = world.statuses()
    changed = world.varied(settings=OTHER_SOUND)

    assert set(changed.settle().values()) == {"embedded"}

    assert world.created() == {"one.wav": 2, "two.wav": 2, "three.wav": 2}
    after = changed.statuses()
    assert all(after[key].task_id != before[key].task_id for key in before)
    assert all(changed.segments(key) is not None for key in after)
    assert not changed.discover().runs


def test_settings_that_concern_no_file_cost_nothing(world: World) -> None:
    world.add("one.wav")
    world.settle()
    picture = EmbeddingSettings(video_segmentation=Segmentation(strategy="fixed", seconds=3))

    changed = world.varied(settings=picture)
    changed.settle()

    assert world.created() == {"one.wav": 1}
    assert not changed.discover().runs, "re-attached once, and not asked for again"


def test_settings_are_not_followed_where_submission_is_left_to_people(world: World) -> None:
    world.add("one.wav")
    world.settle()

    assert not world.varied(settings=OTHER_SOUND, submit_automatically=False).discover().runs


def test_two_sets_of_settings_side_by_side_do_not_mix(world: World) -> None:
    world.add("one.wav", "two.wav")
    other = world.varied(settings=OTHER_SOUND, name="fine", store=EmbeddingStoreResource(root=str(world.root / "fine")))
    world.settle()
    other.settle()

    assert not world.discover().runs
    assert not other.discover().runs
    assert world.created() == {"one.wav": 2, "two.wav": 2}
    assert world.states() == other.states() == {"one.wav": "embedded", "two.wav": "embedded"}
    assert world.segments("one.wav").settings_digest != other.segments("one.wav").settings_digest
    assert len(world.segments("one.wav").start_sec) < len(other.segments("one.wav").start_sec)
    merged = dg.Definitions.merge(build_definitions(world.blueprint), build_definitions(other.blueprint))
    assert len(list(merged.get_repository_def().get_all_jobs())) > 2


def test_the_days_minutes_hold_without_launching_runs_that_hold_everything(world: World) -> None:
    held = world.varied(max_minutes_per_day=2.5 * MINUTES, partitions_per_run=10)
    world.add("a.wav", "b.wav", "c.wav", "d.wav")
    runs_before = world.instance.get_runs_count()

    held.settle()
    ticks = [held.discover() for _ in range(3)]

    assert sum(world.created().values()) == 2
    assert sorted(held.states().values()) == ["embedded", "embedded", "unsubmitted", "unsubmitted"]
    assert not any(tick.runs for tick in ticks)
    message = ticks[-1].message or ""
    assert "2 deferred, c.wav first: max_minutes_per_day is reached: 0.0 min are left" in message
    submitting = world.instance.get_runs(dg.RunsFilter(job_name=world.blueprint.names.submit_job))
    assert len(submitting) == 1
    assert world.instance.get_runs_count() > runs_before
    held.let_pass(600)
    assert set(held.varied(max_minutes_per_day=None).settle().values()) == {"embedded"}, "it resumes"


def test_a_file_that_fits_into_no_day_is_named_and_holds_up_no_other(world: World) -> None:
    world.add("a long one.wav", seconds=30)
    world.add("b.wav")
    held = world.varied(max_minutes_per_day=0.3)

    held.settle()

    assert held.states() == {"a long one.wav": "unsubmitted", "b.wav": "embedded"}
    assert "a long one.wav" in (held.discover().message or "")


def test_a_renamed_file_does_not_wait_for_the_days_minutes(world: World) -> None:
    world.add("a.wav")
    world.settle()
    (world.media / "a.wav").rename(world.media / "b.wav")
    held = world.varied(max_minutes_per_day=1.01 * MINUTES)

    assert held.settle() == {"a.wav": "gone", "b.wav": "embedded"}
    assert world.created() == {"a.wav": 1}


def schedule_requests(world: World) -> list[dg.RunRequest]:
    repository = build_definitions(world.blueprint).get_repository_def()
    schedule = repository.get_schedule_def("daily_embedding_schedule")
    with dg.build_schedule_context(
        instance=world.instance,
        scheduled_execution_time=datetime.now(UTC),
        repository_def=repository,
        resources=world.blueprint.resources,
    ) as context:
        return list(schedule.evaluate_tick(context).run_requests or [])


def test_the_schedule_asks_for_one_run_that_submits_whatever_is_due(
    tmp_path: Path, stored_instance: dg.DagsterInstance, emulator: Emulator
) -> None:
    world = World(tmp_path, stored_instance, emulator)
    manual = world.varied(submit_automatically=False)
    assert schedule_requests(manual) == []
    world.add("embedded.wav")
    world.settle()
    world.add("new.wav")
    manual.discover()

    (request,) = schedule_requests(manual)
    assert manual.driver.run("submit_new_media", dict(request.tags)).success

    assert world.created() == {"embedded.wav": 1, "new.wav": 1}


def test_the_schedule_is_where_the_policy_says(world: World) -> None:
    other = world.varied(schedule_cron="30 4 * * 1", schedule_timezone="Europe/Berlin")

    schedule = build_definitions(other.blueprint).get_repository_def().get_schedule_def("daily_embedding_schedule")

    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 4 * * 1", "Europe/Berlin")


def test_a_passing_failure_launches_no_run_before_its_backoff(world: World) -> None:
    world = world.varied(retry_backoff_sec=3600.0)
    world.add("one.wav")
    world.faults({"kind": "fail", "message": "unstable", "count": 1})
    world.settle()
    world.faults()

    assert not world.discover().runs
    world.let_pass(3700)
    assert len(world.discover().runs) == 1


def test_minutes_spent_longer_than_a_day_ago_do_not_count(world: World) -> None:
    world = world.varied(max_minutes_per_day=1.5 * MINUTES)
    world.add("a.wav", "b.wav")
    assert sorted(world.settle().values()) == ["embedded", "unsubmitted"]

    world.let_pass(86400 + 5)

    assert set(world.settle().values()) == {"embedded"}


def discovery_requests(world: World) -> list[dg.RunRequest]:
    definitions = build_definitions(world.blueprint)
    sensor = definitions.get_repository_def().get_sensor_def("media_discovery_sensor")
    with dg.build_sensor_context(
        instance=world.instance, definitions=definitions, resources=dict(definitions.resources or {})
    ) as context:
        return list(sensor.evaluate_tick(context).run_requests or [])


def test_what_was_asked_for_is_not_asked_for_by_the_next_tick_and_is_after_a_while(world: World) -> None:
    world.add("one.wav")

    assert len(discovery_requests(world)) == 1
    assert discovery_requests(world) == []
    world.let_pass(3600)
    assert len(discovery_requests(world)) == 1, "a run that was lost before it began is asked for again"
