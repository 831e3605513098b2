"""A run that dies between a request and its record leaves a task behind; the next one finds it and pays nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from embed_pipeline.client import EmbedClient
from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline.ledger.media import MediaFiles
from embed_pipeline.ledger.tasks import Tasks
from embed_pipeline.orchestration.resources import EmbeddingStoreResource
from embed_pipeline_tests.world import World

_LEASE_SEC = 60.0
_DOUBT_SEC = 600.0


@contextmanager
def dying_before_the_record() -> Iterator[None]:
    """Runs end the moment a task of theirs is to be recorded, and no lease of theirs is given back."""

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tasks, "created", die)
        patch.setattr(Tasks, "created_together", die)
        patch.setattr(MediaFiles, "end_work", lambda *_, **__: None)
        yield


def die(world: World, *keys: str) -> None:
    """Submit in a run that dies after its requests; its leases lapse."""
    with dying_before_the_record(), pytest.raises(KeyboardInterrupt):
        world.submit(*keys)
    assert set(world.states().values()) == {"unsubmitted"}, "nothing tells of what was created"
    world.let_pass(_LEASE_SEC)


def manual(world: World, *names: str) -> World:
    world = world.varied(submit_automatically=False)
    world.add(*names)
    world.discover()
    return world


def test_the_task_is_adopted_by_the_next_run(world: World) -> None:
    world = manual(world, "one.wav", "two.wav")
    die(world, "one.wav", "two.wav")
    assert sum(world.created().values()) >= 1

    assert world.submit("one.wav", "two.wav").success

    assert world.created() == {"one.wav": 1, "two.wav": 1}
    assert world.latest("embedding_tasks", "one.wav").metadata["embed_pipeline/origin"].value == "adopted"
    assert set(world.settle().values()) == {"embedded"}


def test_the_task_is_adopted_by_the_next_tick(world: World) -> None:
    world = manual(world, "one.wav")
    die(world, "one.wav")

    world.collect()

    assert world.states() == {"one.wav": "embedded"}
    assert world.created() == {"one.wav": 1}
    assert world.latest("embedding_tasks", "one.wav").metadata["embed_pipeline/origin"].value == "adopted"


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
    world.add("one.wav", first_seed=99)
    world.touch("one.wav", seconds_ago=86400)  # a copy that keeps the time of its original
    world.discover()

    assert world.submit("one.wav").success

    assert world.created() == {"one.wav": 2}
    world.collect()
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
        world.let_pass(_DOUBT_SEC)

        result = world.submit("one.wav", "two.wav")

        assert not result.success
        assert "submit it with force if none is its own" in world.words(result)
        assert "submit it with force" in world.words(result)
        assert emulator.platform.journal.summary()["tasks_created"] == 2, "the other file has its own by now"
        assert "submit it with force" in world.statuses()["one.wav"].reason
        world.let_pass(_DOUBT_SEC)
        assert world.settle() == {"one.wav": "failed", "two.wav": "embedded"}, "no tick pays for it either"
        assert "submit it with force" in world.statuses()["one.wav"].reason
        assert world.submit("one.wav", force=True).success
        assert emulator.platform.journal.summary()["tasks_created"] == 3
        assert set(world.settle().values()) == {"embedded"}


def test_a_content_in_doubt_stays_in_doubt_for_all_its_names_and_is_not_given_up(world: World) -> None:
    world = manual(world, "one.wav")
    world.add("twin.wav", first_seed=5)
    world.add("other twin.wav", first_seed=5)
    world.discover()
    # The answer is lost, and the list cannot be asked: whether there is a task is not known.
    world.faults(
        {"kind": "drop", "on": "create", "when": "after", "match": "", "count": 2},
        {"kind": "status", "on": "list", "status": 500, "count": 60},
    )
    deferred = world.submit("one.wav", "twin.wav")
    assert deferred.success, "what is looked for is no failure"
    world.faults()

    assert world.submit("one.wav", "twin.wav").success

    assert sum(world.created().values()) == 2
    assert set(world.settle().values()) == {"embedded"}


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


def test_a_run_whose_claim_was_taken_over_sends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was frozen for longer than its lease, and wakes up before its request, gives way."""
    world = manual(world, "one.wav", "two.wav")
    mark_sent = Tasks.mark_sent

    def frozen(tasks: Tasks, claimed: object, **options: object) -> bool:
        monkeypatch.setattr(Tasks, "mark_sent", mark_sent)
        world.let_pass(_LEASE_SEC)
        assert world.submit("one.wav", "two.wav").success, "another run creates its tasks meanwhile"
        return mark_sent(tasks, claimed, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Tasks, "mark_sent", frozen)

    assert world.submit("one.wav", "one.wav").success

    assert world.created() == {"one.wav": 1, "two.wav": 1}
    assert set(world.settle().values()) == {"embedded"}
