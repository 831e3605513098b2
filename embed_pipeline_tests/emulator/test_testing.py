from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest

from embed_pipeline.client import MediaSource, VideoInputRequest
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.testing import TEST_SETTINGS, InProcessEmulator

VIDEO = VideoInputRequest(media_source=MediaSource(url="https://media.example.com/talk.mp4"))
TALK = {"input_type": "video", "model_name": "marengo3.0", "video": VIDEO}


def test_a_finished_task_is_collected(embed_emulator):
    client = embed_emulator.client()
    task = client.v_2.tasks.create(**TALK)
    assert client.v_2.tasks.retrieve(task.id).status == "processing"
    embed_emulator.finish()
    done = client.v_2.tasks.retrieve(task.id)
    assert done.status == "ready"
    assert embed_emulator.summary()["tasks_created"] == 1
    assert [item.id for item in client.v_2.tasks.list()] == [task.id]


def test_a_task_fails_with_the_words_that_the_test_chooses(embed_emulator):
    client = embed_emulator.client()
    task = client.v_2.tasks.create(**TALK)
    embed_emulator.fail(task.id, "unprocessable")
    assert "could not process your media" in client.v_2.tasks.retrieve(task.id).error.message


def test_a_task_that_is_not_there_is_named(embed_emulator):
    with pytest.raises(ConfigurationError, match="There is no task 'typo'"):
        embed_emulator.fail("typo")
    with pytest.raises(ConfigurationError, match="There is no task 'typo'"):
        embed_emulator.finish("typo")


def test_clients_on_any_event_loop_share_one_emulator(embed_emulator):
    async def create() -> str:
        return (await embed_emulator.async_client().v_2.tasks.create(**TALK)).id

    ids = [asyncio.run(create()), asyncio.run(create()), embed_emulator.client().v_2.tasks.create(**TALK).id]
    assert [task.id for task in embed_emulator.tasks()] == ids[::-1]


def test_time_stands_still_until_the_test_moves_it(embed_emulator):
    client = embed_emulator.client()
    first, second = (client.v_2.tasks.create(**TALK) for _ in range(2))
    before = {task.id: task.created_at for task in embed_emulator.tasks()}
    assert before[first.id] == before[second.id]
    embed_emulator.advance(8 * 24 * 3600)
    assert list(client.v_2.tasks.list()) == []


def test_a_lost_answer_leaves_a_task_behind(embed_emulator):
    embed_emulator.inject({"kind": "drop", "on": "create", "when": "after", "count": 1})
    bare = httpx.Client(
        base_url=embed_emulator.base_url, transport=embed_emulator.transport(), headers={"x-api-key": "k"}
    )
    body = {"input_type": "video", "video": {"media_source": {"url": "https://media.example.com/talk.mp4"}}}
    with pytest.raises(httpx.ReadError):
        bare.post("/embed-v2/tasks", json=body)
    assert len(embed_emulator.tasks()) == 1


@pytest.mark.server
def test_the_server_fixture_is_reached_over_a_socket(embed_server):
    answer = httpx.get(f"{embed_server.base_url}/embed-v2/tasks", headers={"x-api-key": "k"})
    assert answer.json()["data"] == []


class TestWithSettingsOfOnesOwn:
    @pytest.fixture
    def embed_emulator_settings(self):
        return replace(TEST_SETTINGS, plan="free")

    def test_they_are_used(self, embed_emulator):
        assert embed_emulator.platform.limiter.limits["requests_per_minute"] == 25


def test_an_emulator_works_without_a_fixture():
    with InProcessEmulator() as emulator:
        assert emulator.journal() == []
