"""What a run does with the partitions, the waits and the choices it was started with."""

from __future__ import annotations

import time

import pytest

from embed_pipeline.emulator.settings import Timing
from embed_pipeline.errors import DatasetError, EmbedPipelineError
from embed_pipeline.orchestration.resources import EmbeddingStoreResource
from embed_pipeline.pipeline import collect
from embed_pipeline.pipeline.collect import StatusSurvey
from embed_pipeline_tests.world import World


def test_both_assets_in_one_run_wait_for_the_tasks_and_write_the_segments(world: World) -> None:
    world = world.varied(collect_wait_sec=20.0, submit_automatically=False)
    world.emulator.platform.timing = Timing(after_sec=1.5)
    world.add("one.wav", "two.wav")
    world.discover()

    assert world.materialize("one.wav", "two.wav").success

    assert set(world.states().values()) == {"embedded"}


def test_a_run_that_waited_long_enough_says_so_and_leaves_the_rest_to_the_sensor(world: World) -> None:
    world = world.varied(collect_wait_sec=0.5, submit_automatically=False)
    world.emulator.platform.timing = Timing(on_command=True)
    world.add("one.wav", "two.wav")
    world.discover()
    begin = time.monotonic()

    result = world.materialize("one.wav", "two.wav")

    assert not result.success
    assert time.monotonic() - begin < 30
    assert "still processing when the wait was over" in world.words(result)
    assert set(world.states().values()) == {"processing"}
    world.emulator.platform.store.release(None, now=world.emulator.platform.clock.now())
    assert set(world.settle().values()) == {"embedded"}


def test_a_range_whose_end_lies_before_its_start_fails_and_says_why(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.settle()

    result = world.submit("two.wav", "one.wav")

    assert not result.success
    assert "its end lies before its start" in world.words(result)


def test_force_pays_again_and_only_for_what_it_names(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.settle()
    before = world.statuses()

    assert world.submit("one.wav", force=True).success
    assert world.settle() == {"one.wav": "embedded", "two.wav": "embedded"}

    assert world.created() == {"one.wav": 2, "two.wav": 1}
    assert world.statuses()["one.wav"].task_id != before["one.wav"].task_id
    assert world.statuses()["two.wav"] == before["two.wav"]


def test_a_forced_task_that_fails_leaves_the_result_there_was(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.settle()
    before = world.segments("one.wav")
    world.faults({"kind": "fail", "message": "invalid", "match": "one.wav"})
    world.submit("one.wav", force=True)
    world.collect()

    assert world.states()["one.wav"] == "failed"
    assert world.segments("one.wav").task_id == before.task_id
    assert world.submit("one.wav").success, "asking for it without force goes back to the task that served it"
    assert world.settle()["one.wav"] == "embedded"
    assert world.created()["one.wav"] == 2


def test_minutes_per_run_hold_the_rest_for_a_later_run(world: World) -> None:
    world = world.varied(max_minutes_per_run=0.2)
    world.add("a.wav", "b.wav", "c.wav", "d.wav", "e.wav")  # 5 s each: two to a run

    (first,) = world.discover().runs

    assert first.success, "what is held is no failure"
    assert sum(world.created().values()) == 2
    assert set(world.settle().values()) == {"embedded"}
    assert sum(world.created().values()) == 5


def test_minutes_per_day_hold_the_rest_until_there_are_more(world: World) -> None:
    limited = world.varied(max_minutes_per_day=0.2)
    limited.add("a.wav", "b.wav", "c.wav")

    states = limited.settle()

    assert sorted(states.values()) == ["embedded", "embedded", "unsubmitted"]
    assert sum(world.created().values()) == 2
    assert world.submit("a.wav", "b.wav", "c.wav").success, "with more minutes the rest is submitted"
    assert sum(world.created().values()) == 3


def test_two_pipelines_over_one_library_do_not_mix(world: World) -> None:
    settings = world.blueprint.settings
    other = world.varied(
        name="fine",
        store=EmbeddingStoreResource(root=str(world.root / "fine")),
        settings=settings.model_copy(
            update={"audio_segmentation": settings.audio_segmentation.model_copy(update={"seconds": 2})}
        ),
    )
    world.add("one.wav", "two.wav")

    assert set(world.settle().values()) == set(other.settle().values()) == {"embedded"}

    assert world.created() == {"one.wav": 2, "two.wav": 2}
    assert len(other.segments("one.wav").start_sec) > len(world.segments("one.wav").start_sec)
    assert world.settle() == other.settle()
    assert sum(world.created().values()) == 4


def test_a_tick_does_not_wait_as_long_as_a_run_would(world: World) -> None:
    world.add("one.wav")
    world.discover()
    world.faults({"kind": "status", "on": "list", "status": 429, "retry_after": 60})
    begin = time.monotonic()

    tick = world.driver.collect_ready()

    assert time.monotonic() - begin < 20
    assert not tick.runs
    assert "1 tasks are pending, but the platform could not be asked" in str(tick.message)


def test_what_a_tick_learnt_before_the_platform_failed_is_collected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("one.wav", "two.wav")
    world.discover()
    world.finish_computing()
    first = str(world.statuses()["one.wav"].task_id)
    found = StatusSurvey({first: "ready"}, complete=False, problem=EmbedPipelineError("no answer"))
    monkeypatch.setattr(collect, "survey", lambda *_, **__: found)

    (run,) = world.driver.collect_ready().runs

    assert run.success
    assert world.states() == {"one.wav": "embedded", "two.wav": "processing"}


def test_a_second_pipeline_is_kept_from_the_dataset_of_another(world: World) -> None:
    other = world.varied(name="films")
    world.add("one.wav")
    assert world.settle() == {"one.wav": "embedded"}
    before = world.segments("one.wav").task_id

    with pytest.raises(
        DatasetError, match="holds the dataset of the pipeline without a name, and the pipeline 'films'"
    ):
        other.discover()

    assert world.segments("one.wav").task_id == before
    assert world.created() == {"one.wav": 1}, "what could not be written is not paid for"
    elsewhere = other.varied(store=EmbeddingStoreResource(root=str(world.root / "films")))
    assert elsewhere.settle() == {"one.wav": "embedded"}
    assert world.settle() == {"one.wav": "embedded"}
