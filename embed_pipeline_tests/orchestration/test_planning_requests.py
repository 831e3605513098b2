"""Which submissions discovery and the schedule ask for: other settings, the day's minutes, backoff."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from embed_pipeline.orchestration.due import due_for_submission
from embed_pipeline.orchestration.outdated import ToldTask, Watermark, advance
from embed_pipeline.orchestration.pipeline import build_definitions
from embed_pipeline.orchestration.settings import EmbeddingSettings, Segmentation
from embed_pipeline.orchestration.versions import Outcome, OutcomeState
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator import Emulator
from embed_pipeline.orchestration import submission_requests
from embed_pipeline.orchestration.resources import EmbeddingStoreResource
from embed_pipeline.orchestration.runs import RunsOfAsset
from embed_pipeline_tests.world import World, range_tags

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
    assert "0.2 of max_minutes_per_day" in message
    assert "2 wait for their turn" in message
    submitting = world.instance.get_runs(dg.RunsFilter(job_name=world.blueprint.names.submit_job))
    assert len(submitting) == 1
    assert world.instance.get_runs_count() > runs_before
    assert set(held.varied(max_minutes_per_day=None).settle().values()) == {"embedded"}, "it resumes"


@pytest.mark.parametrize("job", ["submit_new_media", "retry_failed_embeddings", "force_new_task"])
def test_discovery_waits_for_a_run_that_chooses_its_files_itself_and_says_so(world: World, job: str) -> None:
    world.add("a.wav", "b.wav")
    choosing = dg.DagsterRun(job_name=job, run_id=str(uuid4()), status=dg.DagsterRunStatus.STARTED)
    world.instance.add_run(choosing)

    world.discover()
    tick = world.discover()

    assert not tick.runs
    assert f"2 due for submission, {job} is under way and goes first, 2 wait for their turn" in (tick.message or "")
    world.instance.report_run_failed(choosing)
    assert len(world.discover().runs) == 1


def test_discovery_tells_how_many_files_are_due_and_how_many_of_them_runs_are_at_work_on(world: World) -> None:
    world = world.varied(partitions_per_run=1, runs_per_tick=1)
    world.add("a.wav", "b.wav")
    world.varied(submit_automatically=False).discover()
    at_work = dg.DagsterRun(
        job_name="submit_embedding_tasks",
        run_id=str(uuid4()),
        status=dg.DagsterRunStatus.STARTED,
        tags=range_tags("a.wav", "b.wav"),
    )
    world.instance.add_run(at_work)

    assert "2 due for submission, 2 of them in runs under way" in (world.discover().message or "")


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


def test_a_passing_failure_is_due_only_after_its_backoff() -> None:
    def due(waiting: set[str]) -> list[str]:
        return due_for_submission(
            ["a"],
            {"a": "content"},
            {"a": 1},
            {"a": 2},
            {"a": "task"},
            {"a": Outcome(OutcomeState.PASSING, 1, "task")},
            max_attempts=3,
            waiting=waiting,
        )

    assert due({"a"}) == []
    assert due(set()) == ["a"]


def test_a_passing_failure_launches_no_run_before_its_backoff(world: World) -> None:
    world = world.varied(retry_backoff_sec=3600.0)
    world.add("one.wav")
    world.discover()
    task = world.ledger.latest_tasks(["one.wav"])["one.wav"]
    from embed_pipeline.orchestration.observations import outcome_observation

    world.instance.report_runless_asset_event(
        outcome_observation(
            world.blueprint.names, "one.wav", Outcome(OutcomeState.PASSING, 1, task.version), "the platform is busy"
        )
    )

    assert not world.discover().runs
    assert world.varied(retry_backoff_sec=0.0).discover().runs


NOW = "now"


@given(
    told=st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([NOW, "before"])), max_size=40),
    page=st.integers(1, 7),
)
def test_every_outdated_task_is_found_whatever_the_order_and_the_pages(told: list[tuple[str, str]], page: int) -> None:
    events = [ToldTask(key, number, version) for number, (key, version) in enumerate(told, start=1)]
    latest = {event.key: event.storage_id for event in events}
    watermark, resubmitted = Watermark(NOW), 0
    while True:
        following = [event for event in events if event.storage_id > watermark.verified][:page]
        outdated, moved = advance(watermark, following, latest)
        assert moved.verified >= watermark.verified
        if not outdated and moved.verified == max(latest.values(), default=0):
            break
        watermark = moved
        for key in outdated:
            assert events[latest[key] - 1].code_version != NOW, "only what is outdated is submitted again"
            resubmitted += 1
            latest[key] = len(events) + 1
            events.append(ToldTask(key, len(events) + 1, NOW))
    final = {key: events[at - 1].code_version for key, at in latest.items()}
    assert set(final.values()) <= {NOW}, "nothing is forgotten"
    assert resubmitted <= len({key for key, version in told if version != NOW}), "nothing is submitted twice"


def test_a_wiped_or_foreign_cursor_starts_from_the_beginning() -> None:
    mark = Watermark(NOW, 17)

    assert Watermark.parse(str(mark), NOW) == mark
    assert Watermark.parse(str(mark), "other") == Watermark("other", 0)
    for broken in (None, "", "{}", "[]", "17", '{"code_version": "now"}', "no json"):
        assert Watermark.parse(broken, NOW) == Watermark(NOW, 0)


def test_what_is_excused_does_not_hold_the_watermark_back() -> None:
    events = [ToldTask("refused", 1, "before"), ToldTask("fine", 2, NOW)]

    outdated, watermark = advance(Watermark(NOW), events, {"refused": 1, "fine": 2}, excused={"refused"})

    assert outdated == []
    assert watermark.verified == 2


def test_minutes_spent_longer_than_a_day_ago_do_not_count(world: World) -> None:
    from embed_pipeline.orchestration.day_budget import read_day_budget

    world.add("one.wav")
    world.settle()
    limited = world.varied(max_minutes_per_day=1.0)

    today = read_day_budget(world.ledger, limited.blueprint.policy, datetime.now(UTC))
    tomorrow = read_day_budget(world.ledger, limited.blueprint.policy, datetime.now(UTC) + timedelta(days=1, seconds=5))

    assert round(today.spent, 3) == round(MINUTES, 3)
    assert tomorrow.left == 1.0


def test_what_a_run_submits_while_discovery_looks_is_not_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("one.wav")
    world.varied(submit_automatically=False).discover()
    look = submission_requests.runs_of_asset

    def look_as_a_run_ends(*args: Any, **options: Any) -> RunsOfAsset:
        found = look(*args, **options)
        assert world.submit("one.wav").success
        return found

    monkeypatch.setattr(submission_requests, "runs_of_asset", look_as_a_run_ends)

    assert not world.discover().runs
    assert world.created() == {"one.wav": 1}
