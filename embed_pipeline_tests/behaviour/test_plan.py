"""The plan tells, before anything is spent, what a submission then does."""

from __future__ import annotations

import pytest

from embed_pipeline import EmbeddingSettings, Segmentation
from embed_pipeline.orchestration.resources import EmbedClientResource
from embed_pipeline.pipeline.plan import PlannedAction, SpendingLimit, SpendingPlan, in_hours, make_plan
from embed_pipeline_tests.world import World


def plan_of(world: World) -> SpendingPlan:
    with world.pipeline() as pipeline:
        return make_plan(pipeline)


def actions(world: World) -> dict[str, str]:
    return {file.media: file.action.value for file in plan_of(world).files}


def test_the_plan_names_what_is_new_changed_unchanged_and_unfit(world: World) -> None:
    world.add("stays.wav", "changes.wav")
    world.settle()
    world.add("changes.wav", first_seed=501)
    world.add("new.wav", first_seed=502)
    world.add("twin of new.wav", first_seed=502)
    world.add("twin of stays.wav", first_seed=hash("stays.wav"))
    world.add("short.wav", seconds=2.0)
    (world.media / "broken.mp4").write_bytes(b"no media at all")
    (world.media / "notes.txt").write_text("no media file")

    plan = plan_of(world.varied(max_duration_sec=60.0, price_per_minute=0.5))

    assert {file.media: file.action.value for file in plan.files} == {
        "stays.wav": "unchanged",
        "changes.wav": "changed",
        "new.wav": "new",
        "twin of new.wav": "same content",
        "twin of stays.wav": "same content",
        "short.wav": "too short",
        "broken.mp4": "unreadable",
    }
    assert plan.left_out["unsupported"] == 1
    assert plan.minutes == pytest.approx(2 * 5 / 60)
    assert plan.cost == pytest.approx(plan.minutes * 0.5)
    assert "2 tasks would be created for 0.2 media minutes, about 0.08 at 0.5 a minute" in plan.headline


def test_what_is_planned_is_what_is_then_created(world: World) -> None:
    world.add("one.wav", "two.wav", "three.wav", "short.wav")
    world.add("short.wav", seconds=1.0)
    planned = {file.media for file in plan_of(world).created}

    world.settle()

    assert set(world.created()) == planned == {"one.wav", "two.wav", "three.wav"}
    assert not plan_of(world).created


def test_planning_asks_the_platform_nothing_and_writes_no_event(world: World) -> None:
    world.add("one.wav")

    plan_of(world)

    assert world.requests() == 0
    assert world.instance.get_dynamic_partitions(world.blueprint.names.partitions) == []
    assert world.states() == {}


def test_other_settings_are_planned_for_the_files_they_affect(world: World) -> None:
    world.add("one.wav")
    world.settle()
    other_sound = EmbeddingSettings(audio_segmentation=Segmentation(strategy="fixed", seconds=3))
    other_picture = EmbeddingSettings(video_segmentation=Segmentation(strategy="fixed", seconds=3))

    assert actions(world.varied(settings=other_sound)) == {"one.wav": "other settings"}
    assert actions(world.varied(settings=other_picture)) == {"one.wav": "unchanged"}


def test_a_task_on_another_platform_is_told_from_one_that_failed(world: World) -> None:
    world.add("one.wav")
    world.settle()
    elsewhere = EmbedClientResource(api_key="key", base_url="https://api.example.com/v1.3")

    assert actions(world.varied(client=elsewhere)) == {"one.wav": "other platform"}


def test_a_file_longer_than_the_platform_takes_is_named(world: World) -> None:
    world.add("long.wav", seconds=8.0)

    (file,) = plan_of(world.varied(max_duration_sec=6.0)).files

    assert file.action is PlannedAction.TOO_LONG
    assert "too long" in file.reason


def test_the_plan_is_metadata_that_dagster_takes(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.discover()

    result = world.driver.run("plan_embedding_tasks", {})

    assert result.success
    (output,) = [event for event in result.all_node_events if event.is_successful_output]
    metadata = output.step_output_data.metadata
    assert metadata["embed_pipeline/files"].value is not None


@pytest.mark.parametrize(
    ("limit", "tasks", "minutes", "seconds"),
    [
        (SpendingLimit("requests_per_minute", "tasks", 25, 60), 25, 0, 0),
        (SpendingLimit("requests_per_minute", "tasks", 25, 60), 26, 0, 60),
        (SpendingLimit("requests_per_minute", "tasks", 25, 60), 1000, 0, 39 * 60),
        (SpendingLimit("media_minutes_per_day", "minutes", 600, 86400), 1, 601, 86400),
        (SpendingLimit("media_minutes_per_day", "minutes", 600, 86400), 0, 0, 0),
    ],
)
def test_a_limit_spreads_a_submission_over_whole_windows(
    limit: SpendingLimit, tasks: int, minutes: float, seconds: float
) -> None:
    assert limit.least_sec(tasks, minutes) == seconds


def test_lengths_of_time_read_as_people_say_them() -> None:
    assert [in_hours(seconds) for seconds in (120, 5400, 4 * 86400)] == ["2 min", "1.5 h", "4.0 days"]


def test_a_file_that_no_run_has_room_for_is_named_and_not_counted(world: World) -> None:
    limited = world.varied(submit_automatically=False, max_minutes_per_run=0.1)
    limited.add("a.wav", "b.wav")
    limited.add("long.wav", seconds=9)
    limited.discover()

    plan = plan_of(limited)

    assert actions(limited) == {"a.wav": "new", "b.wav": "new", "long.wav": "over a limit"}
    assert "longer than max_minutes_per_run (0.1) allows at all" in plan.files[2].reason
    assert plan.headline.startswith("2 tasks would be created for 0.2 media minutes")
    assert "at least 2 runs, at max_minutes_per_run (0.1)" in plan.pace


def test_what_the_dataset_has_is_planned_for_nothing(world: World) -> None:
    world.add("a.wav")
    world.settle()
    names = world.blueprint.names
    world.instance.wipe_assets([names.embedding_tasks, names.segment_embeddings])
    world.add("b.wav")

    assert actions(world) == {"a.wav": "unchanged", "b.wav": "new"}
    assert plan_of(world).minutes == pytest.approx(5 / 60)
