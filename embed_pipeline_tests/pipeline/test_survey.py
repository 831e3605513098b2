"""Survey of the platform's list: which tasks have ended, and which are not listed any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from embed_pipeline.client import EmbedClient, MediaSource, UnauthorizedError
from embed_pipeline.pipeline import collect
from embed_pipeline.pipeline.collect import survey
from embed_pipeline.pipeline.settings import EmbeddingSettings
from embed_pipeline.pipeline.sources import typed_request
from embed_pipeline.testing import InProcessEmulator


def create(client: EmbedClient, emulator: InProcessEmulator, number: int) -> tuple[str, datetime]:
    source = MediaSource(url=f"https://media.example.com/{number}.mp4")
    task = client.v_2.tasks.create(**typed_request(EmbeddingSettings().request("video"), source))
    return str(task.id), datetime.fromtimestamp(emulator.platform.clock.now() / 1000, tz=UTC)


@pytest.fixture
def created(embed_emulator: InProcessEmulator, monkeypatch: pytest.MonkeyPatch) -> dict[str, datetime]:
    """Three tasks that were created within one second, where two are looked for at once."""
    monkeypatch.setattr(collect, "_TASKS_PER_WINDOW", 2)
    embed_emulator.advance(1.2 - embed_emulator.platform.clock.now() / 1000 % 1)
    tasks = {}
    with embed_emulator.client() as client:
        for number in range(3):
            task_id, at = create(client, embed_emulator, number)
            tasks[task_id] = at
            embed_emulator.advance(0.2)
    assert len({at.replace(microsecond=0) for at in tasks.values()}) == 1
    return tasks


@pytest.mark.parametrize("ahead_sec", [0, 30, -30])
def test_each_task_is_found_wherever_it_is_listed(
    embed_emulator: InProcessEmulator, created: dict[str, datetime], ahead_sec: float
) -> None:
    recorded = {task_id: at - timedelta(seconds=ahead_sec) for task_id, at in created.items()}
    with embed_emulator.client() as client:
        found = survey(client, recorded)

    assert found.statuses == dict.fromkeys(created, "processing")
    assert found.complete
    assert not found.unlisted


def test_a_task_that_may_be_listed_in_the_part_that_was_not_seen_is_not_taken_for_unlisted(
    embed_emulator: InProcessEmulator, created: dict[str, datetime]
) -> None:
    # By the platform's clock they were created a little later, and are listed in the second part.
    recorded = {task_id: at - timedelta(seconds=30) for task_id, at in created.items()}
    embed_emulator.inject({"kind": "status", "on": "list", "status": 401, "skip": 1})
    with embed_emulator.client() as client:
        found = survey(client, recorded)

    assert isinstance(found.problem, UnauthorizedError)
    assert not found.complete
    assert not any(found.has_ended(task_id) for task_id in created)


def test_a_task_that_is_not_listed_any_more_has_ended(
    embed_emulator: InProcessEmulator, created: dict[str, datetime]
) -> None:
    gone = dict.fromkeys(["0" * 24], next(iter(created.values())))
    with embed_emulator.client() as client:
        found = survey(client, created | gone)

    assert found.unlisted == set(gone)
