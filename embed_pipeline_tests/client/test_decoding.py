from __future__ import annotations

import json
import math
import sys

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed_pipeline.client import EmptyResultError, UnreadableResponseError, decode_task
from embed_pipeline.client.decoding import _reader, _SimdReader


def body(items, **fields) -> dict:
    return {
        "_id": "t1",
        "status": "ready",
        "data": items,
        "metadata": {"duration": 12.5, "embedding_engine": "signal-2"},
        **fields,
    }


def item(vector, **fields) -> dict:
    return {
        "embedding": vector,
        "embedding_option": "visual",
        "embedding_scope": "clip",
        "start_sec": 0,
        "end_sec": 6.5,
        **fields,
    }


finite = st.floats(-1e30, 1e30, allow_nan=False) | st.integers(-(2**53), 2**53)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['},{"', "}]", '"data":[{', "\\"]
)


@st.composite
def bodies(draw) -> dict:
    dimension = draw(st.integers(1, 6))
    uncertain = draw(st.booleans())
    vector = st.lists(finite, min_size=dimension, max_size=dimension)
    fields = {
        "embedding_option": st.none() | words,
        "embedding_scope": st.none() | words,
        "start_sec": st.none() | st.floats(0, 1e5),
        "end_sec": st.none() | st.floats(0, 1e5),
        "chunk_index": st.integers(0, 9),
        "nested": st.fixed_dictionaries(
            {"data": st.lists(st.fixed_dictionaries({"embedding": st.just([1])}), max_size=2)}
        ),
    }
    required = {"embedding": vector} | ({"embedding_uncertainty": vector} if uncertain else {})
    items = draw(st.lists(st.fixed_dictionaries(required, optional=fields), min_size=1, max_size=12))
    others = draw(st.dictionaries(words.filter(lambda name: name not in ("_id", "status", "data")), words, max_size=2))
    whole = {"_id": "t1", "status": "ready", "data": items, **{f"x{name}": value for name, value in others.items()}}
    return {name: whole[name] for name in draw(st.permutations(list(whole)))}


# The parsers that may be there, the fastest first: without the first, or the first two, the next one is used.
PARSERS = {"simdjson": (), "orjson": ("simdjson",), "json": ("simdjson", "orjson")}


@pytest.fixture(params=PARSERS)
def parser(request, monkeypatch) -> str:
    for absent in PARSERS[request.param]:
        monkeypatch.setitem(sys.modules, absent, None)
    return request.param


WITH_PARSER = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_the_fastest_parser_that_is_there_is_used(parser):
    reader = _reader()
    assert isinstance(reader, _SimdReader) == (parser == "simdjson")
    assert getattr(reader, "_loads", None) is {"simdjson": None, "orjson": orjson.loads, "json": json.loads}[parser]


@WITH_PARSER
@given(whole=bodies(), indent=st.sampled_from([None, 1]), window=st.integers(1, 400))
def test_every_layout_and_window_size_gives_what_the_json_says(parser, whole, indent, window):
    task = decode_task(bytearray(json.dumps(whole, indent=indent).encode()), window_bytes=window)
    segments, items = task.segments, whole["data"]
    np.testing.assert_array_equal(segments.embedding, np.array([each["embedding"] for each in items], np.float32))
    assert segments.embedding.dtype == np.float32
    assert segments.embedding.flags.c_contiguous
    assert segments.embedding_option == [each.get("embedding_option") for each in items]
    assert segments.embedding_scope == [each.get("embedding_scope") for each in items]
    assert [None if math.isnan(each) else each for each in segments.end_sec] == [each.get("end_sec") for each in items]
    assert [each.chunk_index for each in segments] == [each.get("chunk_index") for each in items]
    if "embedding_uncertainty" in items[0]:
        expected = np.array([each["embedding_uncertainty"] for each in items], np.float32)
        np.testing.assert_array_equal(segments.embedding_uncertainty, expected)
    extra = {name: value for name, value in whole.items() if name.startswith("x")}
    assert task.model_extra == extra


@WITH_PARSER
@given(whole=bodies(), cut=st.floats(0, 1), window=st.integers(1, 400))
def test_a_body_that_is_cut_off_is_never_a_result(parser, whole, cut, window):
    raw = json.dumps(whole).encode()
    with pytest.raises(UnreadableResponseError):
        decode_task(raw[: int(cut * (len(raw) - 1))], window_bytes=window)


@pytest.mark.parametrize("window", [10, 1_000_000])
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (item([1.0, 2.0, 3.0]), "3 numbers where the others have 2"),
        (item([1.0]), "1 numbers"),
        (item([]), "0 numbers"),
        (item([[1.0, 2.0]]), "numbers"),
        (item([1.0, None]), "no embedding"),
        (item([1.0, True]), "no embedding"),
        (item({"0": 1.0}), "no embedding"),
        (item([1.0, "2"]), "no embedding"),
        (item(None), "no embedding"),
        ({"embedding_option": "visual"}, "no embedding"),
        (item([1.0, 1e300]), "not finite"),
        (item([1.0, math.nan]), "not finite"),
        (item([1.0, math.inf]), "not finite"),
        (item([1.0, 2.0], start_sec="0"), "no number"),
        (item([1.0, 2.0], embedding_uncertainty=[1.0]), "1 uncertainties for 2"),
        ("text", "no embedding"),
    ],
)
def test_an_item_that_does_not_fit_is_named_by_its_number(parser, window, bad, says):
    good = item([0.5, -0.5])
    with pytest.raises(UnreadableResponseError, match=f"Item 7 .*{says}"):
        decode_task(json.dumps(body([good] * 7 + [bad] + [good] * 3)).encode(), window_bytes=window)


@pytest.mark.parametrize("window", [10, 1_000_000])
@pytest.mark.parametrize("first", [True, False])
def test_uncertainties_that_only_some_items_have_are_an_error(parser, window, first):
    with_it, without = item([1.0, 2.0], embedding_uncertainty=[0.1, 0.2]), item([1.0, 2.0])
    items = [with_it, without, without] if first else [without, without, with_it]
    with pytest.raises(UnreadableResponseError, match=r"Item \d+ .*uncertainty"):
        decode_task(json.dumps(body(items)).encode(), window_bytes=window)


@pytest.mark.parametrize("data", [None, []])
def test_ready_without_vectors_is_an_error_that_names_the_task(data):
    task = decode_task(json.dumps(body(data)).encode())
    with pytest.raises(EmptyResultError, match="t1"):
        _ = task.segments


def test_what_stands_beside_the_vectors_is_kept_even_if_it_is_odd():
    task = decode_task(json.dumps(body([item([1.0])], created_at="yesterday", error="text", usage={"new": 1})).encode())
    assert task.created_at is None
    assert task.error.message == "text"
    assert task.metadata.embedding_engine == "signal-2"
    assert task.segments.embedding.tolist() == [[1.0]]


@pytest.mark.parametrize("window", [1, 1_000_000])
def test_names_that_are_odd_are_kept(parser, window):
    odd = {"nul": 0, "nul\0": 1, "": 2, "a/b~c": [3]}
    task = decode_task(json.dumps(body([item([1.0], **odd)] * 3, **odd)).encode(), window_bytes=window)
    assert {name: task.model_extra[name] for name in odd} == odd
    assert {name: column[2] for name, column in task.segments.extra.items()} == odd


def test_the_items_are_views_of_the_matrix():
    segments = decode_task(json.dumps(body([item([1.0, 2.0]), item([3.0, 4.0])])).encode()).segments
    assert all(np.shares_memory(each.embedding, segments.embedding) for each in segments)
    assert [each.end_sec for each in segments[0:2]] == [6.5, 6.5]
    assert len(segments) == 2
    assert segments[-1].embedding.tolist() == [3.0, 4.0]


NO_TASKS = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b'{"status":"ready"}',
    b'{"_id":"1"}',
    b'{"_id":"1","status":"ready","data":{}}',
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("raw", NO_TASKS, ids=lambda raw: repr(raw[:20]))
def test_a_body_that_is_no_task_is_unreadable(parser, raw):
    with pytest.raises(UnreadableResponseError):
        decode_task(raw)
