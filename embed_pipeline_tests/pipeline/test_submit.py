"""Submission: one task for each content, whatever goes wrong on the way."""

from __future__ import annotations

from embed_pipeline_tests.pipeline.world import World


def test_each_content_gets_one_task_and_each_name_of_it_is_attached(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.add("twin of one.wav", first_seed=hash("one.wav"))
    world.discover()

    report = world.submit()

    assert report.created.keys() | report.attached.keys() == {"one.wav", "two.wav", "twin of one.wav"}
    assert len(report.created) == 2
    assert world.paid() == 2
    assert world.row("one.wav").task_id == world.row("twin of one.wav").task_id
    assert set(world.states().values()) == {"processing"}
    assert world.collect().collected.keys() == world.states().keys()
    assert set(world.states().values()) == {"embedded"}


def test_settles(world: World) -> None:
    world.add("one.wav", "two.wav")
    assert set(world.settle().values()) == {"embedded"}


def test_uploads(uploading: World) -> None:
    uploading.add("one.wav", "two.wav")
    assert set(uploading.settle().values()) == {"embedded"}
    assert len(uploading.uploads()) == 2
