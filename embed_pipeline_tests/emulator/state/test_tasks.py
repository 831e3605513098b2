from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed_pipeline.emulator.rules.request import AcceptedRequest, Segmentation
from embed_pipeline.emulator.state.clock import new_id
from embed_pipeline.emulator.state.database import Database
from embed_pipeline.emulator.state.tasks import TaskStore
from embed_pipeline.emulator.work.compute import embed_instant

REQUEST = AcceptedRequest(
    input_type="video",
    model_name="marengo3.0",
    source_kind="url",
    source="https://media.example.com/a.mp4",
    options=("visual", "audio"),
    scopes=("clip", "asset"),
    types=("separate_embedding",),
    segmentation=Segmentation("fixed", 6),
)


@pytest.fixture
def store(tmp_path):
    database = Database(tmp_path / "tasks.sqlite3")
    yield TaskStore(database)
    database.close()


def test_a_result_is_read_as_it_was_kept(store):
    store.add("a" * 24, REQUEST, now=1)
    kept = embed_instant(b"content", 31.0, REQUEST)
    store.finish("a" * 24, kept, release_at=1, now=2)
    read = store.result("a" * 24)
    assert (read.engine, read.duration_sec, read.labels) == (kept.engine, kept.duration_sec, kept.labels)
    for name in ("start_sec", "end_sec", "vectors"):
        assert np.array_equal(getattr(read, name), getattr(kept, name))
    assert store.result("b" * 24) is None


def test_every_queued_task_is_claimed_by_exactly_one_worker(store):
    ids = [new_id(0) for _ in range(60)]
    for task_id in ids:
        store.add(task_id, REQUEST, now=1)
    claimed: list[str] = []

    def work() -> None:
        while (task := store.claim()) is not None:
            claimed.append(task.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(ids)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), max_size=25), st.integers(1, 7))
def test_pages_hold_every_task_once_newest_first(tmp_path_factory, times, limit):
    database = Database(tmp_path_factory.mktemp("pages") / "tasks.sqlite3")
    store = TaskStore(database)
    made = []
    for moment in times:
        task_id = new_id(moment)
        store.add(task_id, REQUEST, now=moment)
        made.append((moment, len(made), task_id))
    seen: list[str] = []
    for page in range(len(times) // limit + 2):
        tasks, total = store.page(first_ms=0, last_ms=None, status=None, offset=page * limit, limit=limit)
        assert total == len(times)
        assert len(tasks) <= limit
        seen += [task.id for task in tasks]
    assert seen == [task_id for _, _, task_id in sorted(made, reverse=True)]
    database.close()


def test_vectors_past_their_retention_are_deleted_and_others_are_not(store):
    for number, moment in enumerate((10, 20)):
        store.add(f"{number:024x}", REQUEST, now=moment)
        store.finish(f"{number:024x}", embed_instant(b"x", 12.0, REQUEST), release_at=moment, now=moment)
    assert store.drop_results_before(20, most=10) == [f"{0:024x}"]
    assert store.result(f"{0:024x}") is None
    assert store.result(f"{1:024x}") is not None


@given(st.floats(0.5, 2000), st.integers(2, 10), st.sampled_from(["fixed", "dynamic"]))
def test_instant_segments_cover_the_media_without_gap_or_overlap(duration, seconds, strategy):
    request = AcceptedRequest(
        **{
            **REQUEST.__dict__,
            "segmentation": Segmentation(strategy, seconds),
            "scopes": ("clip",),
            "options": ("audio",),
        }
    )
    result = embed_instant(b"x", duration, request)
    assert result.start_sec[0] == 0
    assert result.end_sec[-1] == duration
    assert np.array_equal(result.start_sec[1:], result.end_sec[:-1])
    lengths = result.end_sec - result.start_sec
    assert (lengths > 0).all()
    if strategy == "dynamic" and len(lengths) > 1:
        assert lengths.min() >= seconds - 1e-9
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-5)
    assert len(np.unique(result.vectors[:, 0])) > len(lengths) * 0.9
