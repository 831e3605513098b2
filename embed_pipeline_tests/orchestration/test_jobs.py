"""Retrying by hand, and the other jobs that people launch."""

from __future__ import annotations

import dataclasses
from typing import Any

import dagster as dg
import pytest

from embed_pipeline.ledger import MediaState
from embed_pipeline.pipeline.discover import retire
from embed_pipeline.pipeline.maintain import NothingToRetryError, UnknownMediaError, chosen_for_retry, known_keys
from embed_pipeline.pipeline.settings import EmbeddingSettings, Segmentation
from embed_pipeline_tests.world import World, range_tags

STATES = {
    "talks/one.wav": MediaState.EMBEDDED,
    "talks/two.wav": MediaState.FAILED,
    "talks/three%2C four.wav": MediaState.EXPIRED,
    "five.wav": MediaState.PROCESSING,
}


def run_job(world: World, job: str, **config: Any) -> dg.ExecuteInProcessResult:
    return world.driver.run(job, {}, {job: {"config": config}} if config else None)


def test_all_that_failed_or_expired_is_chosen_where_nothing_is_named() -> None:
    assert chosen_for_retry(STATES, []) == ["talks/two.wav", "talks/three%2C four.wav"]


def test_a_file_may_be_named_by_its_path_as_well_as_by_its_key() -> None:
    assert chosen_for_retry(STATES, ["talks/three, four.wav", "talks/two.wav"]) == [
        "talks/two.wav",
        "talks/three%2C four.wav",
    ]


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownMediaError, match=r"'talks/tow\.wav'.*Did you mean 'talks/two\.wav'"):
        chosen_for_retry(STATES, ["talks/tow.wav"])
    with pytest.raises(UnknownMediaError, match="status` lists them"):
        known_keys(STATES, ["zzzzzzzzzzz"])


def test_what_did_not_fail_is_not_retried() -> None:
    with pytest.raises(NothingToRetryError, match=r"talks/one\.wav is embedded"):
        chosen_for_retry(STATES, ["talks/one.wav"])
    with pytest.raises(NothingToRetryError, match="none of 1 media files"):
        chosen_for_retry({"a.wav": MediaState.EMBEDDED}, [])


def test_only_the_chosen_failure_is_retried(world: World) -> None:
    world.add("good.wav", "bad.wav", "worse.wav")
    for name in ("bad.wav", "worse.wav"):
        (world.media / name).write_bytes(b"no media")
    world.settle()
    before = world.statuses()
    assert world.states() == {"bad.wav": "failed", "good.wav": "embedded", "worse.wav": "failed"}
    world.add("bad.wav", "worse.wav")
    world.varied(submit_automatically=False).discover()

    assert run_job(world, "retry_failed_embeddings", media=["bad.wav"]).success is False, "it has not failed any more"
    assert run_job(world, "submit_new_media").success
    world.collect()

    assert set(world.states().values()) == {"embedded"}
    assert world.statuses()["good.wav"] == before["good.wav"]
    assert world.created() == {"good.wav": 1, "bad.wav": 1, "worse.wav": 1}


def test_an_expired_result_is_retried_and_the_others_are_left_alone(world: World) -> None:
    world = world.varied(max_attempts=1)
    world.add("one.wav", "two.wav")
    world.discover()
    world.emulator.platform.clock.advance(8 * 86400)
    world.collect()
    assert world.states() == {"one.wav": "expired", "two.wav": "expired"}

    assert run_job(world, "retry_failed_embeddings", media=["two.wav"]).success
    world.collect()

    assert world.states() == {"one.wav": "expired", "two.wav": "embedded"}
    assert run_job(world, "retry_failed_embeddings").success
    world.collect()
    assert set(world.states().values()) == {"embedded"}
    assert world.created() == {"one.wav": 2, "two.wav": 2}


def test_retrying_all_where_nothing_failed_is_no_failure(world: World) -> None:
    world.add("one.wav")
    world.settle()

    assert run_job(world, "retry_failed_embeddings").success

    assert world.created() == {"one.wav": 1}


def test_force_pays_for_exactly_the_files_that_are_named(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.settle()

    assert run_job(world, "force_new_task", media=["two.wav"]).success
    world.settle()

    assert world.created() == {"one.wav": 1, "two.wav": 2}
    assert set(world.states().values()) == {"embedded"}


def test_what_vanished_is_retired_and_what_is_there_is_not(world: World) -> None:
    world.add("stays.wav", "goes.wav")
    world.settle()
    (world.media / "goes.wav").unlink()
    world.settle()

    assert not run_job(world, "retire_vanished_media", media=["stays.wav"]).success
    assert run_job(world, "retire_vanished_media").success

    assert world.states() == {"stays.wav": "embedded"}
    assert world.segments("goes.wav") is None
    assert world.segments("stays.wav") is not None


@pytest.mark.parametrize("job", ["retry_failed_embeddings", "force_new_task", "retire_vanished_media"])
def test_a_job_tells_a_wrong_name_in_one_sentence_and_not_by_a_stack_trace(world: World, job: str) -> None:
    world.add("one.wav")
    world.varied(submit_automatically=False).discover()

    result = run_job(world, job, media=["on.wav"])

    (failed,) = [event.step_failure_data for event in result.all_node_events if event.is_step_failure]
    assert failed.user_failure_data is not None
    assert str(failed.user_failure_data.description).startswith("There is no media file 'on.wav'")


def test_what_a_renamed_file_still_needs_is_not_retired(world: World) -> None:
    world.add("old.wav")
    world.settle()
    (world.media / "old.wav").rename(world.media / "new.wav")
    manual = world.varied(submit_automatically=False)
    manual.discover()
    assert world.states() == {"old.wav": "gone", "new.wav": "processing"}, "its segments are still to be copied"

    assert run_job(manual, "retire_vanished_media").success
    assert world.segments("old.wav") is not None

    world.settle()
    assert run_job(manual, "retire_vanished_media").success
    assert world.states() == {"new.wav": "embedded"}
    assert world.created() == {"old.wav": 1}


def test_what_was_retired_by_hand_is_embedded_again_when_it_comes_back(world: World) -> None:
    world.add("stays.wav", "goes.wav")
    world.settle()
    (world.media / "goes.wav").rename(world.root / "aside.wav")
    world.settle()
    assert run_job(world, "retire_vanished_media").success

    (world.root / "aside.wav").rename(world.media / "goes.wav")

    assert world.settle() == {"stays.wav": "embedded", "goes.wav": "embedded"}
    assert world.segments("goes.wav") is not None


def test_what_is_retired_is_of_the_pipelines_own_settings_past_and_present(world: World) -> None:
    other = EmbeddingSettings(audio_segmentation=Segmentation(strategy="fixed", seconds=3))
    third = EmbeddingSettings(audio_segmentation=Segmentation(strategy="fixed", seconds=2))
    world.add("goes.wav", "stays.wav")
    world.settle()
    changed = world.varied(settings=other)
    changed.settle()
    # Another program keeps segments of its own below the same root.
    foreign = dataclasses.replace(world.segments("goes.wav"), settings_digest=third.digest("audio"))
    world.blueprint.store.dataset().write(foreign)
    (world.media / "goes.wav").unlink()
    retiring = changed.varied(when_a_file_vanishes="retire")
    retiring.discover()
    retiring.discover()
    assert retiring.states() == {"stays.wav": "embedded"}

    dataset = world.blueprint.store.dataset()
    kept = [
        one for one in (world.blueprint.settings, other, third) if dataset.read_media("goes.wav", one.digest("audio"))
    ]
    assert kept == [third], "what another program keeps below the same root is not ours to remove"


def test_a_file_that_was_never_submitted_is_forgotten_when_it_vanishes(world: World) -> None:
    manual = world.varied(submit_automatically=False)
    manual.add("goes.wav", "stays.wav")
    manual.discover()
    (world.media / "goes.wav").unlink()
    manual.discover()
    assert manual.states() == {"goes.wav": "gone", "stays.wav": "unsubmitted"}

    job = manual.driver._repository.get_job(manual.blueprint.names.submit_job)
    tags = range_tags("goes.wav", "stays.wav")
    run = manual.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.NOT_STARTED)
    partitions = manual.blueprint.names.partitions
    manual.discover()
    assert "goes.wav" in manual.instance.get_dynamic_partitions(partitions), "a queued run may still target it"

    manual.instance.report_run_canceled(run)
    manual.discover()
    assert manual.states() == {"stays.wav": "unsubmitted"}
    assert list(manual.instance.get_dynamic_partitions(partitions)) == ["stays.wav"]
    assert manual.submit("stays.wav").success, "a backfill of all the files that are left succeeds"


def test_retiring_ends_in_time_and_goes_on_where_it_stopped(world: World) -> None:
    names = ["a.wav", "b.wav", "c.wav"]
    world.add(*names)
    world.settle()

    with world.pipeline() as pipeline:
        first = retire(pipeline, names, budget_sec=0.0)
        assert first.keys == ("a.wav",)
        assert sorted(pipeline.ledger.keys("")) == ["b.wav", "c.wav"]
        rest = retire(pipeline, names[1:])
    assert sorted(rest.keys) == ["b.wav", "c.wav"]
    assert all(world.segments(key) is None for key in names)


def test_one_bad_file_keeps_no_other_from_being_submitted(world: World) -> None:
    manual = world.varied(submit_automatically=False, partitions_per_run=2)
    world.add("b.wav", "c.wav", "d.wav", "e.wav")
    (world.media / "a.wav").write_bytes(b"text, and no sound at all")
    manual.discover()

    result = run_job(manual, "submit_new_media")

    assert not result.success
    assert "a.wav" in world.words(result)
    assert world.created() == {"b.wav": 1, "c.wav": 1, "d.wav": 1, "e.wav": 1}


def test_the_minutes_of_a_run_count_over_all_its_parts(world: World) -> None:
    manual = world.varied(submit_automatically=False, partitions_per_run=1, max_minutes_per_run=0.2)
    world.add("a.wav", "b.wav", "c.wav", "d.wav")  # 5 s each: two to a run
    manual.discover()

    assert run_job(manual, "submit_new_media").success
    assert sum(world.created().values()) == 2

    assert run_job(manual, "submit_new_media").success
    assert sum(world.created().values()) == 4


@pytest.mark.parametrize("job", ["retry_failed_embeddings", "force_new_task"])
def test_what_was_asked_for_by_hand_and_had_no_room_is_no_success(world: World, job: str) -> None:
    world.add("bad.wav", "good.wav")
    world.faults({"kind": "fail", "message": "invalid", "match": "bad.wav"})
    world.settle()
    limited = world.varied(submit_automatically=False, max_minutes_per_day=0.2)  # and 10 s are spent

    result = run_job(limited, job, media=["bad.wav"])

    assert not result.success
    assert "max_minutes_per_day is reached" in limited.words(result)
    assert "ask for it again when there is room" in limited.words(result)
    assert world.created() == {"bad.wav": 1, "good.wav": 1}


def test_a_file_that_no_run_has_room_for_is_told_by_run_and_status(world: World) -> None:
    limited = world.varied(submit_automatically=False, max_minutes_per_run=0.1)
    limited.add("a.wav")
    limited.add("long.wav", seconds=9)
    limited.discover()

    assert run_job(limited, "submit_new_media").success, "the others are not held up by it"

    assert limited.created() == {"a.wav": 1}
    assert "longer than max_minutes_per_run (0.1) allows at all" in limited.statuses()["long.wav"].reason


def test_tasks_of_other_settings_are_submitted_by_hand_too(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.settle()
    other = EmbeddingSettings(audio_segmentation=Segmentation(strategy="fixed", seconds=3))
    manual = world.varied(submit_automatically=False, settings=other)

    assert run_job(manual, "submit_new_media").success
    assert world.created() == {"one.wav": 2, "two.wav": 2}

    assert run_job(manual, "submit_new_media").success
    assert world.created() == {"one.wav": 2, "two.wav": 2}
