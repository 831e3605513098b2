"""The main line: a library becomes a dataset, and nothing is paid for twice."""

from __future__ import annotations

import pytest

from embed_pipeline_tests.world import World, write_sound


def test_a_library_becomes_a_dataset_and_a_second_tick_requests_nothing(world: World) -> None:
    world.add("one.wav", "talks/two.wav", "three.wav")

    assert world.settle() == {"one.wav": "embedded", "talks/two.wav": "embedded", "three.wav": "embedded"}
    for key in world.states():
        segments = world.segments(key)
        assert segments.task_id == world.statuses()[key].task_id
        assert len(segments.start_sec) == world.statuses()[key].segments > 0
    requests = world.requests()
    discovered, collected = world.step()
    assert not discovered.runs
    assert not collected.runs
    assert world.requests() == requests, "a tick with nothing pending asks the platform nothing"
    assert world.created() == {"one.wav": 1, "two.wav": 1, "three.wav": 1}


def test_materializing_again_pays_nothing(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.settle()
    before = world.statuses()

    assert world.submit("one.wav", "two.wav").success
    assert world.run("collect_embeddings", "one.wav", "two.wav").success

    assert world.statuses() == before
    assert sum(world.created().values()) == 2


def test_a_changed_file_gets_exactly_one_new_task(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.settle()
    before = world.statuses()
    world.add("one.wav", first_seed=99)

    assert set(world.settle().values()) == {"embedded"}

    assert world.created() == {"one.wav": 2, "two.wav": 1}
    assert world.statuses()["two.wav"] == before["two.wav"]
    assert world.segments("one.wav").task_id == world.statuses()["one.wav"].task_id != before["one.wav"].task_id


@pytest.mark.parametrize("result_expired", [False, True])
def test_a_renamed_file_costs_nothing(world: World, result_expired: bool) -> None:
    world.add("one.wav")
    world.settle()
    if result_expired:
        world.emulator.platform.clock.advance(8 * 86400)
    (world.media / "one.wav").rename(world.media / "renamed, and moved.wav")

    assert world.settle() == {"one.wav": "gone", "renamed%2C and moved.wav": "embedded"}

    assert sum(world.created().values()) == 1
    old, new = world.segments("one.wav"), world.segments("renamed%2C and moved.wav")
    assert new.media == "renamed%2C and moved.wav"
    assert (new.embedding == old.embedding).all()


def test_the_same_content_under_two_names_is_one_task(world: World) -> None:
    world.add("one.wav", first_seed=7)
    world.add("copy.wav", first_seed=7)

    assert set(world.settle().values()) == {"embedded"}

    assert sum(world.created().values()) == 1
    world.add("later copy.wav", first_seed=7)
    assert set(world.settle().values()) == {"embedded"}
    assert sum(world.created().values()) == 1
    assert len({world.segments(key).task_id for key in world.states()}) == 1


def test_a_copy_of_the_old_content_is_served_by_its_task_while_the_original_changes(world: World) -> None:
    world.add("talk.wav", first_seed=1)
    world.settle()
    world.add("talk.wav", first_seed=2)
    world.add("a talk before the change.wav", first_seed=1)

    assert set(world.settle().values()) == {"embedded"}

    assert sum(world.created().values()) == 2


def test_a_copy_of_the_old_content_is_served_before_the_original_is_submitted_anew(world: World) -> None:
    world = world.varied(submit_automatically=False)
    world.add("talk.wav", first_seed=1)
    world.discover()
    world.submit("talk.wav")
    world.add("talk.wav", first_seed=2)
    world.add("talk before the change.wav", first_seed=1)
    world.discover()

    assert world.submit("talk before the change.wav").success

    assert sum(world.created().values()) == 1


def test_a_vanished_file_is_kept_as_gone_and_comes_back_for_nothing(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.settle()
    (world.media / "one.wav").rename(world.root / "aside.wav")

    assert world.settle() == {"one.wav": "gone", "two.wav": "embedded"}
    assert world.segments("one.wav") is not None
    assert world.submit("one.wav", "two.wav").success, "a backfill of everything does not fail over what has its task"

    (world.root / "aside.wav").rename(world.media / "one.wav")
    assert world.settle() == {"one.wav": "embedded", "two.wav": "embedded"}
    assert sum(world.created().values()) == 2


def test_a_vanished_file_is_retired_and_comes_back_with_its_segments(world: World) -> None:
    world = world.varied(when_a_file_vanishes="retire")
    world.add("one.wav", "two.wav")
    world.settle()
    (world.media / "one.wav").rename(world.root / "aside.wav")

    world.settle()
    assert world.settle() == {"two.wav": "embedded"}
    assert world.segments("one.wav") is None

    (world.root / "aside.wav").rename(world.media / "one.wav")
    assert world.settle() == {"two.wav": "embedded", "one.wav": "embedded"}
    assert world.segments("one.wav") is not None
    assert sum(world.created().values()) == 2


def test_a_retired_file_that_comes_back_after_its_result_expired_is_embedded_again(world: World) -> None:
    world = world.varied(when_a_file_vanishes="retire")
    world.add("one.wav", "other.wav")
    world.settle()
    (world.media / "one.wav").rename(world.root / "aside.wav")
    world.settle()
    world.settle()
    world.emulator.platform.clock.advance(8 * 86400)
    (world.root / "aside.wav").rename(world.media / "under another name.wav")

    assert world.settle() == {
        "other.wav": "embedded",
        "under another name.wav": "embedded",
    }
    assert sum(world.created().values()) == 3


def test_retiring_waits_until_a_renamed_file_is_served_under_its_new_name(world: World) -> None:
    world = world.varied(when_a_file_vanishes="retire", submit_automatically=False)
    world.add("one.wav")
    world.discover()
    world.submit("one.wav")
    world.collect()
    world.emulator.platform.clock.advance(8 * 86400)
    (world.media / "one.wav").rename(world.media / "two.wav")

    for _ in range(3):
        world.discover()
    assert world.segments("one.wav") is not None, "it is the only copy of a result that the platform has forgotten"

    world.submit("two.wav")
    world.collect()
    world.discover()
    assert world.states() == {"two.wav": "embedded"}
    assert world.segments("one.wav") is None
    assert sum(world.created().values()) == 1


def test_names_that_are_awkward_everywhere_are_embedded_under_themselves(world: World) -> None:
    names = [
        "comma, and ... dots.wav",
        "per%cent.wav",
        "Ünïcödé Küste.wav",
        "tab\tand\nnewline.wav",
        "quote'\"`$(x).wav",
        "hash#question?.wav",
        "a b/c d/è.wav",
        "=+&;[]{}.wav",
        "back\\slash.wav",
        "x" * 120 + ".wav",
    ]
    world.add(*names)

    assert set(world.settle().values()) == {"embedded"}

    assert len(world.states()) == len(names)
    assert sum(world.created().values()) == len(names)
    assert all(world.segments(key).media == key for key in world.states())


def test_a_rotated_recording_is_paid_once_however_its_names_are_spread_over_runs(world: World) -> None:
    world = world.varied(partitions_per_run=1)
    write_sound(world.media / "recording.wav", 1)
    write_sound(world.media / "z.wav", 2)
    world.settle()

    (world.media / "recording.wav").rename(world.media / "recording.1.wav")
    write_sound(world.media / "recording.wav", 3)

    assert set(world.settle().values()) == {"embedded"}
    assert world.emulator.platform.journal.summary()["tasks_created"] == 3
