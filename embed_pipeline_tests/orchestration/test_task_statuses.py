"""What the platform's list is asked: oldest tasks first, only where they are, and by the platform's clock."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.client import AudioInputRequest, EmbedClient, MediaSource
from embed_pipeline.orchestration.task_statuses import stretches, survey
from embed_pipeline_tests.world import World

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.lists(st.integers(0, 30_000), max_size=40), st.integers(-1000, 1000), st.integers(1, 60))
def test_every_task_lies_in_its_stretch_and_stretches_follow_each_other(
    seconds: list[int], ahead: int, noted_late: int
) -> None:
    noted = {f"t{number}": BEGIN + timedelta(seconds=at) for number, at in enumerate(seconds)}

    found = stretches(noted, ahead_sec=ahead)

    assert sorted(task_id for one in found for task_id in one.task_ids) == sorted(noted)
    assert all(one.end <= following.start for one, following in itertools.pairwise(found))
    for at in noted.values():
        for created in (at, at + timedelta(seconds=ahead), at + timedelta(seconds=ahead - noted_late)):
            assert any(one.start <= created <= one.end for one in found), "wherever it is, it is asked for"


def test_many_tasks_are_asked_for_in_parts_without_gaps() -> None:
    noted = {f"t{number}": BEGIN + timedelta(seconds=number) for number in range(6000)}

    found = stretches(noted)

    assert len(found) == 3
    assert [one.end for one in found[:-1]] == [one.start for one in found[1:]]


@contextmanager
def client_of(world: World) -> Iterator[EmbedClient]:
    with world.blueprint.client.client() as client:
        yield client


def create(client: EmbedClient, world: World, count: int) -> dict[str, datetime]:
    world.add("one.wav")
    source = MediaSource(url=(world.media / "one.wav").as_uri())
    return {
        client.v_2.tasks.create(
            input_type="audio", model_name="marengo3.0", audio=AudioInputRequest(media_source=source)
        ).id: datetime.now(UTC)
        for _ in range(count)
    }


def listings(world: World) -> int:
    return sum(world.emulator.platform.journal.summary()["requests"].get("list", {}).values())


def test_an_old_task_is_found_without_walking_through_what_came_since(world: World) -> None:
    with client_of(world) as client:
        old = create(client, world, 1)
        world.emulator.platform.clock.advance(3600)
        create(client, world, 120)

        found = survey(client, old)

    assert found.complete
    assert found.statuses.keys() == old.keys()
    assert listings(world) == 1


def test_the_oldest_are_found_first_when_time_is_short(world: World) -> None:
    with client_of(world) as client:
        old = create(client, world, 1)
        world.emulator.platform.clock.advance(3600)
        new = {task_id: at + timedelta(hours=1) for task_id, at in create(client, world, 120).items()}

        found = survey(client, old | new, budget_sec=0.0)

    assert old.keys() <= found.statuses.keys()
    assert not found.complete
    assert not found.unlisted, "what was not looked for is not taken for gone"


def test_a_task_that_is_not_listed_is_told_apart_from_one_that_was_not_looked_for(world: World) -> None:
    with client_of(world) as client:
        there = create(client, world, 1)

        found = survey(client, {**there, "0" * 24: datetime.now(UTC)})

    assert found.unlisted == {"0" * 24}
    assert found.has_ended("0" * 24)


def test_what_was_found_before_the_platform_failed_is_kept(world: World) -> None:
    with client_of(world) as client:
        old = create(client, world, 1)
        world.emulator.platform.clock.advance(3600)
        new = {task_id: at + timedelta(hours=1) for task_id, at in create(client, world, 60).items()}
        world.faults({"kind": "status", "on": "list", "status": 403, "skip": 1})

        found = survey(client, old | new)

    assert old.keys() <= found.statuses.keys()
    assert found.problem is not None
    assert not found.complete


def test_tasks_are_looked_for_by_the_platforms_clock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.emulator.platform.clock.advance(1800)
    monkeypatch.setattr(
        EmbedClient, "clock_offset_sec", property(lambda _: 1800.0 if listings(world) else None), raising=True
    )
    with client_of(world) as client:
        tasks = create(client, world, 2)

        found = survey(client, tasks)

    assert found.statuses.keys() == tasks.keys()
    assert not found.unlisted
    assert found.complete
