"""The client and the emulator, over real HTTP, with threads and with asyncio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from embed_pipeline.client import (
    AsyncTemporalSegmentation,
    AudioInputRequest,
    AudioSegmentation,
    AudioSegmentationFixed,
    BadRequestError,
    EmbedClient,
    MediaSource,
    NotFoundError,
    PollPolicy,
    RetryPolicy,
    TemporalSegmentation_Fixed,
    TemporalSegmentationFixedFixed,
    VideoInputRequest,
    VideoSegmentation_Fixed,
    VideoSegmentationFixedFixed,
)
from embed_pipeline_tests.client.asyncio_client import AsyncioClient

pytestmark = pytest.mark.server

OFTEN = PollPolicy(initial_sec=0.05, max_sec=0.2)
RETRIES = RetryPolicy(initial_delay_sec=0.05, settle_delays_sec=(0.05, 0.2))


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    command = [sys.executable, "-m", "embed_pipeline.emulator", "--port", "0", "--engine", "instant"]
    process = subprocess.Popen([*command, "--instant-duration", "30"], stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(params=[EmbedClient, AsyncioClient], ids=["threads", "asyncio"])
def client(emulator: str, request: pytest.FixtureRequest) -> Iterator[EmbedClient]:
    with request.param(api_key=f"key-{uuid.uuid4().hex}", base_url=emulator, retries=RETRIES) as embed_client:
        yield embed_client


def video(**fields) -> VideoInputRequest:
    return VideoInputRequest(
        media_source=MediaSource(url=f"https://media.example/{uuid.uuid4().hex}.mp4"),
        embedding_option=["visual", "audio"],
        embedding_scope=["clip", "asset"],
        **fields,
    )


def test_a_video_of_marengo_3_0_from_create_to_vectors(client):
    media = video(segmentation=VideoSegmentation_Fixed(fixed=VideoSegmentationFixedFixed(duration_sec=6)))
    task = client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=media)
    assert (task.status, task.adopted) == ("processing", False)
    done = client.v_2.tasks.wait(task.id, poll=OFTEN)
    segments = done.segments
    assert segments.embedding.shape == (12, 512)
    assert np.isfinite(segments.embedding).all()
    clips = {
        (segments.start_sec[row], segments.end_sec[row])
        for row in range(12)
        if segments.embedding_scope[row] == "clip" and segments.embedding_option[row] == "visual"
    }
    assert clips == {(start, start + 6.0) for start in (0.0, 6.0, 12.0, 18.0, 24.0)}
    assert done.metadata.input_url == media.media_source.url
    assert done.metadata.duration == 30.0
    assert done.metadata.embedding_engine
    (found,) = client.v_2.tasks.find(media.media_source)
    assert (found.id, found.status, found.model_name) == (task.id, "ready", "marengo3.0")
    assert set(found.media.embedding_options) == {"visual", "audio"}


def test_audio_of_both_models(client):
    source = MediaSource(url=f"https://media.example/{uuid.uuid4().hex}.wav")
    old = client.v_2.tasks.create(
        input_type="audio",
        model_name="marengo3.0",
        audio=AudioInputRequest(
            media_source=source,
            segmentation=AudioSegmentation(strategy="fixed", fixed=AudioSegmentationFixed(duration_sec=10)),
            embedding_option=["audio"],
            embedding_scope=["clip"],
        ),
    )
    new = client.v_2.tasks.create(
        input_type="audio",
        model_name="marengo3.5",
        embedding_dimension=256,
        embedding_uncertainty=True,
        audio=AudioInputRequest(
            media_source=source,
            segmentation=AsyncTemporalSegmentation(
                temporal=TemporalSegmentation_Fixed(fixed=TemporalSegmentationFixedFixed(duration_sec=10))
            ),
            embedding_option=["audio"],
            embedding_scope=["local"],
        ),
    )
    results = {task.id: task for task in client.v_2.tasks.as_completed([old.id, new.id], poll=OFTEN)}
    assert results[old.id].segments.embedding.shape == (3, 512)
    assert results[new.id].segments.embedding.shape == (3, 256)
    assert results[new.id].segments.embedding_uncertainty.shape == (3, 256)
    assert set(results[new.id].segments.embedding_scope) == {"clip"}


def test_many_tasks_created_by_a_thread_pool_are_all_listed_once(client):
    with ThreadPoolExecutor(8) as pool:
        created = list(
            pool.map(
                lambda media: client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=media).id,
                [video() for _ in range(60)],
            )
        )
    assert len(set(created)) == 60
    listed = [task.id for task in client.v_2.tasks.list(page_limit=7) if task.id in set(created)]
    assert sorted(listed) == sorted(created)
    assert client.stats.created == 60


def test_refusals_are_read(client):
    with pytest.raises(NotFoundError, match="/embed-v2/tasks/64f8d2c7e4a1b37f8a9c5d12"):
        client.v_2.tasks.retrieve("64f8d2c7e4a1b37f8a9c5d12")
    with pytest.raises(BadRequestError):
        client.v_2.tasks.create(
            input_type="video",
            model_name="marengo3.0",
            video=VideoInputRequest(media_source=MediaSource(asset_id="64f8d2c7e4a1b37f8a9c5d12")),
        )


def test_a_file_is_uploaded_either_way_and_its_task_is_found_by_name(client, tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(os.urandom(6_000_000))
    for limit in (1, 10**9):
        asset = client.assets.upload(path, type="video", direct_up_to=limit, poll=OFTEN)
        assert asset.status == "ready"
        task = client.v_2.tasks.create(
            input_type="video",
            model_name="marengo3.0",
            video=VideoInputRequest(media_source=asset.media_source, embedding_option=["visual"]),
        )
        assert [each.id for each in client.v_2.tasks.find(asset.filename)] == [task.id]
    client.v_2.tasks.wait(task.id, poll=OFTEN)
    client.assets.delete(asset.id, force=True)
    with pytest.raises((NotFoundError, BadRequestError)):
        client.assets.retrieve(asset.id)


def test_creates_whose_answers_are_lost_make_one_task_each(tmp_path: Path):
    faults = tmp_path / "faults.json"
    rules = [
        {"kind": "status", "on": "create", "status": 502, "body": "html", "when": "after", "probability": 0.3},
        {"kind": "drop", "on": "create", "when": "after", "probability": 0.3},
        {"kind": "status", "on": "create", "status": 500, "probability": 0.2},
        {"kind": "status", "on": "list", "status": 503, "probability": 0.1},
    ]
    faults.write_text(json.dumps(rules))
    command = [sys.executable, "-m", "embed_pipeline.emulator", "--port", "0", "--engine", "instant"]
    process = subprocess.Popen(
        [*command, "--instant-duration", "30", "--faults", str(faults)], stdout=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().strip()
        policy = RetryPolicy(max_attempts=20, initial_delay_sec=0.01, max_delay_sec=0.05, settle_delays_sec=(0.02, 0.1))
        media = [video() for _ in range(40)]
        with EmbedClient(api_key="k", base_url=url, retries=policy) as client:
            with ThreadPoolExecutor(8) as pool:
                tasks = list(
                    pool.map(
                        lambda each: client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=each),
                        media,
                    )
                )
            listed = list(client.v_2.tasks.list(page_limit=50))
            stats = client.stats
    finally:
        process.terminate()
        process.wait(20)
    assert sorted(task.id for task in tasks) == sorted(task.id for task in listed)
    assert len(listed) == len(media)
    assert stats.adopted > 0
    assert stats.created + stats.adopted == len(media)
