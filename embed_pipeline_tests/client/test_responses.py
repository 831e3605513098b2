"""Answers of the platform as objects: what is kept of them, and that they survive every way to keep them."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from embed_pipeline.client import (
    EmbeddingTaskResponse,
    EmptyResultError,
    MediaEmbeddingTask,
    Segments,
    TasksCreateResponse,
    decode_task,
)

ITEMS = [
    {
        "embedding": [0.1, -2.5],
        "embedding_option": "visual",
        "embedding_scope": "clip",
        "start_sec": 0.0,
        "end_sec": 6.5,
        "embedding_uncertainty": [0.25, 0.5],
    },
    {"embedding": [1e-8, 3.0], "embedding_uncertainty": [0.0, 1.0], "chunk_index": 3, "novelty": {"a": [1]}},
]
READY = {
    "_id": "t1",
    "status": "ready",
    "created_at": "2026-01-02T03:04:05.678Z",
    "data": ITEMS,
    "metadata": {"input_type": "video", "duration": 12.5, "novelty": "kept"},
    "novelty": 7,
}

WAYS = {
    "model_dump": lambda task: EmbeddingTaskResponse(**task.model_dump()),
    "model_validate": lambda task: EmbeddingTaskResponse.model_validate(task.model_dump(mode="json", by_alias=True)),
    "model_dump_json": lambda task: EmbeddingTaskResponse.model_validate_json(task.model_dump_json()),
    "json": lambda task: decode_task(task.model_dump_json(by_alias=True).encode()),
    "pickle": lambda task: pickle.loads(pickle.dumps(task)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda task: task.model_copy(deep=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_result_survives_with_its_vectors(way):
    task = decode_task(json.dumps(READY).encode())
    again = WAYS[way](task)
    assert again.model_dump() == task.model_dump()
    assert (again.id, again.status, again.created_at) == ("t1", "ready", task.created_at)
    assert again.metadata.model_extra == {"novelty": "kept"}
    assert again.model_extra == {"novelty": 7}
    for name in ("embedding", "embedding_uncertainty", "start_sec", "end_sec"):
        np.testing.assert_array_equal(getattr(again.segments, name), getattr(task.segments, name))
    assert again.segments.embedding.dtype == np.float32
    assert again.segments.embedding_option == ["visual", None]
    assert again.segments.extra == {"chunk_index": [None, 3], "novelty": [None, {"a": [1]}]}


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3), max_size=4)
)
def test_no_number_changes_on_the_way_through_json(vectors):
    items = [{"embedding": vector} for vector in vectors]
    task = decode_task(json.dumps({"_id": "t", "status": "ready", "data": items}).encode())
    again = EmbeddingTaskResponse.model_validate_json(task.model_dump_json())
    assert [item.embedding.tolist() for item in again.data] == vectors


def test_an_item_is_dumped_as_it_is_on_the_wire():
    first, second = decode_task(json.dumps(READY).encode()).data
    assert first.model_dump() == {**ITEMS[0], "embedding": [float(np.float32(0.1)), -2.5]}
    assert json.loads(second.model_dump_json()) == {**ITEMS[1], "embedding": [float(np.float32(1e-8)), 3.0]}
    assert (second.chunk_index, second.model_extra) == (3, {"novelty": {"a": [1]}})


def test_the_vectors_can_be_left_out_of_a_dump():
    task = decode_task(json.dumps(READY).encode())
    assert "data" not in task.model_dump(exclude={"data"})
    assert task.model_dump(include={"id"}) == {"id": "t1"}
    assert task.model_dump(include={"data"}).keys() == {"data"}
    assert decode_task(b'{"_id": "t", "status": "processing", "data": null}').model_dump()["data"] is None


@pytest.mark.parametrize("data", [None, []])
def test_a_task_without_vectors_says_so_and_advises_no_second_payment(data):
    task = decode_task(json.dumps({**READY, "data": data}).encode())
    for each in (task, pickle.loads(pickle.dumps(task)), EmbeddingTaskResponse(**task.model_dump())):
        with pytest.raises(EmptyResultError, match="t1 holds no vectors") as raised:
            _ = each.segments
        assert "again" not in str(raised.value)


@pytest.mark.parametrize(
    "items",
    [[{}], [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}], [{"embedding": "no"}], [ITEMS[0], {"embedding": [1, 2]}]],
)
def test_items_that_do_not_fit_make_no_columns(items):
    with pytest.raises(ValueError, match=r"vectors|uncertainty"):
        Segments.of(items)
    with pytest.raises(ValidationError):
        EmbeddingTaskResponse.model_validate({**READY, "data": items})


def test_a_new_task_has_its_metadata_as_an_object_and_survives():
    created = TasksCreateResponse.model_validate(
        {"_id": "t", "status": "processing", "metadata": {"embedding_dimension": 256, "new": 1}, "adopted": True}
    )
    assert created.metadata.embedding_dimension == 256
    for again in (TasksCreateResponse(**created.model_dump()), pickle.loads(pickle.dumps(created))):
        assert again == created
        assert again.adopted


def test_a_listed_task_survives_with_what_is_new_in_it():
    listed = {
        "_id": "t",
        "status": "ready",
        "novelty": 1,
        "video_embedding": {"metadata": {"input_url": "https://a.example/b?X-Amz-Signature=topsecret", "new": 2}},
    }
    task = MediaEmbeddingTask.model_validate(listed)
    assert "topsecret" not in repr(task)
    ways = (
        MediaEmbeddingTask(**task.model_dump()),
        MediaEmbeddingTask.model_validate_json(task.model_dump_json()),
        pickle.loads(pickle.dumps(task)),
        copy.deepcopy(task),
    )
    for again in ways:
        assert again == task
        assert again.model_extra == {"novelty": 1}
        assert again.media.model_extra == {"new": 2}
