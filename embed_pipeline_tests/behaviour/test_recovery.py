"""A run that dies between a request and its event leaves a task behind; the next one finds it and pays nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from embed_pipeline.client import EmbedClient
from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline.orchestration import creation, left_behind, submitting
from embed_pipeline.orchestration.resources import EmbeddingStoreResource
from embed_pipeline_tests.world import World

Log = Callable[[dg.AssetMaterialization | dg.AssetObservation], None]


@contextmanager
def dying_before_the_event() -> Iterator[None]:
    """Runs end the moment a task of theirs is to be told: after the request, before its event."""

    def event_logger(context: dg.AssetExecutionContext) -> Log:
        def log_event(event: dg.AssetMaterialization | dg.AssetObservation) -> None:
            if isinstance(event, dg.AssetMaterialization):
                raise KeyboardInterrupt
            context.log_event(event)

        return log_event

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submitting, "event_logger", event_logger)
        yield


@pytest.fixture(autouse=True)
def _answers_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_behind, "_LATE_ANSWER_SEC", 0.0)


def die(world: World, *keys: str) -> None:
    with dying_before_the_event():
        try:
            world.submit(*keys)
        except KeyboardInterrupt:
            return
    assert not world.ledger.latest_tasks(keys), "no event tells of what was created"


def manual(world: World, *names: str) -> World:
    world = world.varied(submit_automatically=False)
    world.add(*names)
    world.discover()
    return world


def test_the_task_is_adopted(world: World) -> None:
    world = manual(world, "one.wav", "two.wav")
    die(world, "one.wav", "two.wav")
    paid = sum(world.created().values())
    assert paid >= 1

    assert world.submit("one.wav", "two.wav").success

    assert world.created() == {"one.wav": 1, "two.wav": 1}
    assert set(world.settle().values()) == {"embedded"}


def test_the_task_is_adopted_under_the_files_new_name(world: World) -> None:
    world = manual(world, "one.wav", "two.wav")
    die(world, "one.wav")
    (world.media / "one.wav").rename(world.media / "renamed.wav")
    world.discover()

    assert world.submit("renamed.wav").success

    assert sum(world.created().values()) == 1
    world.collect()
    assert world.states()["renamed.wav"] == "embedded"


def test_a_task_made_from_what_the_file_held_before_is_not_adopted(world: World) -> None:
    world = manual(world, "one.wav", "two.wav")
    die(world, "one.wav")
    world.finish_computing()
    time.sleep(2.5)  # the platform's clock is known to a second, and a busy machine answers late
    world.add("one.wav", first_seed=99)
    world.touch("one.wav", seconds_ago=86400)  # a copy that keeps the time of its original
    world.discover()

    assert world.submit("one.wav").success

    assert world.created() == {"one.wav": 2}
    world.collect()
    assert world.states()["one.wav"] == "embedded"
    world.add("fresh copy.wav", first_seed=99)
    world.discover()
    world.submit("fresh copy.wav", force=True)
    world.collect()
    assert (world.segments("one.wav").embedding == world.segments("fresh copy.wav").embedding).all()


def test_a_task_of_another_pipeline_is_not_adopted(world: World) -> None:
    world = manual(world, "one.wav", "two.wav")
    settings = world.blueprint.settings
    other = world.varied(
        name="fine",
        store=EmbeddingStoreResource(root=str(world.root / "fine")),
        settings=settings.model_copy(
            update={"audio_segmentation": settings.audio_segmentation.model_copy(update={"seconds": 2})}
        ),
    )
    other.discover()
    die(world, "two.wav")
    assert other.submit("one.wav").success

    assert world.submit("one.wav", "two.wav").success

    assert world.created() == {"one.wav": 2, "two.wav": 1}


def test_an_uploaded_files_task_is_adopted(tmp_path: Path, media: Path, instance: dg.DagsterInstance) -> None:
    with Emulator(EmulatorSettings(engine="instant", workers=1)) as emulator:
        world = manual(World(tmp_path, instance, emulator, client={"delivery": "upload"}), "one.wav", "two.wav")
        die(world, "one.wav")

        assert world.submit("one.wav", "two.wav").success

        assert emulator.platform.journal.summary()["tasks_created"] == 2
        assert set(world.settle().values()) == {"embedded"}


def test_a_task_that_cannot_be_told_from_others_is_left_to_a_person(
    tmp_path: Path, media: Path, instance: dg.DagsterInstance
) -> None:
    with Emulator(EmulatorSettings(engine="instant", workers=1)) as emulator:
        world = manual(World(tmp_path, instance, emulator, client={"delivery": "base64"}), "one.wav", "two.wav")
        die(world, "one.wav")

        result = world.submit("two.wav")

        assert not result.success
        assert "submit it with force" in world.words(result)
        assert emulator.platform.journal.summary()["tasks_created"] == 1
        assert world.submit("one.wav", "two.wav", force=True).success
        assert emulator.platform.journal.summary()["tasks_created"] == 3
        assert set(world.settle().values()) == {"embedded"}


def test_a_file_with_the_content_of_one_whose_outcome_is_not_known_is_not_given_up(world: World) -> None:
    world = manual(world, "one.wav")
    world.add("twin.wav", first_seed=5)
    world.add("other twin.wav", first_seed=5)
    world.discover()
    # The answer is lost, and the list cannot be asked: whether there is a task is not known.
    world.faults(
        {"kind": "drop", "on": "create", "when": "after", "match": "", "count": 2},
        {"kind": "status", "on": "list", "status": 500, "count": 60},
    )
    assert not world.submit("one.wav", "twin.wav").success
    world.faults()

    assert world.submit("one.wav", "twin.wav").success

    assert sum(world.created().values()) == 2
    assert set(world.settle().values()) == {"embedded"}


def test_a_run_that_was_taken_for_dead_gives_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "_STILL_RUNNING_SEC", 0.0)
    names = [f"{number}.wav" for number in range(6)]
    world = manual(World(world.root, world.instance, world.emulator, client={"concurrency": 1}), *names)
    world.faults({"kind": "latency", "on": "create", "seconds": 0.3})

    def end_the_run() -> None:
        while not world.created():
            time.sleep(0.02)
        for run in world.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            world.instance.report_run_failed(run)

    ender = threading.Thread(target=end_the_run)
    ender.start()
    result = world.submit(names[0], names[-1])
    ender.join()

    assert "was ended while it was creating tasks" in world.words(result)
    assert 1 <= sum(world.created().values()) < len(names)
    world.faults()
    assert world.submit(names[0], names[-1]).success
    assert world.created() == dict.fromkeys(names, 1)


@pytest.mark.parametrize("ahead_sec", [-600, 600])
def test_the_task_is_adopted_however_wrong_the_platforms_clock_is(
    world: World, ahead_sec: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The emulator dates its tasks by its own clock and its answers by the machine's, so its Date tells no offset.
    monkeypatch.setattr(world.emulator.platform.clock, "_offset_ms", int(ahead_sec * 1000))
    learnt = property(lambda client: None if client._session.clock_offset_sec is None else ahead_sec)
    monkeypatch.setattr(EmbedClient, "clock_offset_sec", learnt)
    world = manual(world, "one.wav")
    die(world, "one.wav")

    assert world.submit("one.wav").success

    assert world.created() == {"one.wav": 1}
