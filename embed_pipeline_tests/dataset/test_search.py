from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from embed_pipeline.dataset import (
    EmbeddingDataset,
    MediaQuery,
    SegmentQuery,
    nearest,
    read_embeddings,
)
from embed_pipeline.dataset.search import unit_rows
from embed_pipeline.errors import DatasetError
from embed_pipeline_tests.dataset.values import DIGEST, make_segments

KEYS = [f"{number}.mp4" for number in range(5)]


@pytest.fixture(params=["segments", "snapshot"])
def source(request):
    return request.param


@pytest.fixture
def filled(dataset, source):
    for key in KEYS:
        dataset.write(make_segments(key, clips=10))
    if source == "snapshot":
        dataset.compact()
    return dataset


def by_hand(dataset, source, vector):
    """Cosines of every segment, in float64."""
    vectors, frame = read_embeddings(dataset, to="matrix", source=source)
    vectors = vectors.astype(np.float64)
    frame["score"] = vectors @ vector / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vector)
    return frame.sort_values("score", ascending=False)


def test_the_nearest_to_a_vector_are_those_that_numpy_finds(filled, source):
    vector = np.random.default_rng(3).normal(size=8)
    matches = nearest(filled, vector, k=7, source=source)
    expected = by_hand(filled, source, vector).head(7)
    assert [match.segment_id for match in matches] == expected["segment_id"].tolist()
    np.testing.assert_allclose([match.score for match in matches], expected["score"], rtol=1e-5)
    assert [match.start_sec for match in matches] == expected["start_sec"].tolist()


def test_filters_limit_where_is_searched(filled, source):
    matches = nearest(filled, np.ones(8), k=100, source=source, media=KEYS[1], option="audio", start_sec=12, end_sec=30)
    assert {(match.media, match.embedding_option) for match in matches} == {(KEYS[1], "audio")}
    assert sorted(match.start_sec for match in matches) == [12, 18, 24]


def test_media_files_are_searched_or_left_out_by_name(filled, source):
    def found(query=None, **where):
        return {match.media for match in nearest(filled, np.ones(8) if query is None else query, k=500, **where)}

    for where in ({"source": source}, {}):
        assert found(media=KEYS[1:3], **where) == {KEYS[1], KEYS[2]}
        assert found(exclude_media=[KEYS[0], "gone.mp4"], **where) == set(KEYS[1:])
        assert found(media=KEYS[:3], exclude_media=KEYS[0], **where) == {KEYS[1], KEYS[2]}
        assert found(MediaQuery(KEYS[0]), exclude_media=KEYS[1], **where) == set(KEYS[2:])
        assert found(media=[], **where) == set()


def test_an_option_or_scope_that_the_dataset_does_not_have_is_refused(filled, source):
    for where, problem in (
        ({"option": "foo"}, "no segments of the option 'foo'; it has 'audio', 'visual'"),
        ({"option": ["visual", "fused", "foo"]}, "no segments of the option 'foo', 'fused'; it has 'audio', 'visual'"),
        ({"option": "foo", "media": KEYS[0]}, "no segments of the option 'foo'"),
        ({"scope": "clips"}, "no segments of the scope 'clips'; it has 'asset', 'clip'"),
        ({"space": "signal-2-8"}, r"no vector space 'signal-2-8'; it has marengo3\.0-8"),
    ):
        for query in (np.ones(8), MediaQuery(KEYS[1])):
            with pytest.raises(DatasetError, match=problem):
                nearest(filled, query, source=source, **where)


def test_filters_that_leave_nothing_find_nothing(filled, source):
    filled.write(make_segments("silent.mp4", embedding_option=["visual"] * 9))
    if source == "snapshot":
        filled.compact()
    assert nearest(filled, np.ones(8), source=source, option="audio", media="silent.mp4") == []
    assert nearest(filled, np.ones(8), source=source, option="audio", start_sec=1e6) == []
    assert nearest(filled, np.ones(8), source=source, option=[]) == []


def test_an_empty_dataset_has_nothing_near(tmp_path):
    assert nearest(str(tmp_path), np.ones(8), option="visual") == []


def test_matches_make_a_frame(filled, source):
    matches = nearest(filled, np.ones(8), k=3, source=source)
    frame = pd.DataFrame(matches)
    assert frame["segment_id"].tolist() == [match.segment_id for match in matches]
    assert frame["score"].tolist() == [match.score for match in matches]


def test_a_segment_finds_its_like_and_not_itself(filled, source):
    row = read_embeddings(filled, source=source).to_pylist()[4]
    matches = nearest(filled, SegmentQuery(row["segment_id"]), k=200, source=source)
    expected = by_hand(filled, source, np.asarray(row["embedding"]))["segment_id"].tolist()
    assert expected[0] == row["segment_id"]
    assert [match.segment_id for match in matches] == expected[1:]


def test_a_media_file_finds_others_by_its_nearest_segment(filled, source):
    matches = nearest(filled, MediaQuery(KEYS[0]), k=3, source=source)
    vectors, frame = read_embeddings(filled, to="matrix", source=source)
    own = (frame["media"] == KEYS[0]).to_numpy()
    scores = unit_rows(vectors[~own]) @ unit_rows(vectors[own]).T
    best = np.argsort(-scores.max(axis=1))[:3]
    assert [match.segment_id for match in matches] == frame[~own]["segment_id"].iloc[best].tolist()
    assert [match.query_row for match in matches] == scores[best].argmax(axis=1).tolist()


def test_the_segments_of_a_new_media_file_can_be_the_query(filled, source):
    stored = filled.read_media(KEYS[2], DIGEST)
    matches = nearest(filled, dataclasses.replace(stored, media="new.mp4"), k=1, source=source)
    assert matches[0].media == KEYS[2]
    assert matches[0].score == pytest.approx(1, abs=1e-6)


def test_a_match_links_into_its_media_file(filled, source):
    match = nearest(filled, np.ones(8), k=1, source=source, media=KEYS[0], scope="asset")[0]
    assert match.link == f"s3://library/{KEYS[0]}#t=0,60"


def test_queries_that_fit_nothing_are_refused(filled, source):
    for query, problem in (
        (np.ones(9), "9 components; the dataset holds marengo3.0-8"),
        (np.full(8, np.nan), "no finite vector"),
        (SegmentQuery("unknown"), "no segment 'unknown'"),
        (MediaQuery("unknown.mp4"), "no segments of media file 'unknown.mp4'"),
    ):
        with pytest.raises(DatasetError, match=problem):
            nearest(filled, query, source=source)
    with pytest.raises(DatasetError, match=r"cannot be compared to 'marengo3\.0-8'"):
        nearest(filled, make_segments(model_name="signal-2"), space="marengo3.0-8", source=source)
    with pytest.raises(DatasetError, match="at least one"):
        nearest(filled, np.ones(8), k=0)


def test_two_spaces_are_never_searched_as_one(filled, source):
    filled.write(make_segments("other.mp4", model_name="signal-2"))
    if source == "snapshot":
        filled.compact()
    with pytest.raises(DatasetError, match="2 vector spaces"):
        nearest(filled, np.ones(8), source=source)
    found = nearest(filled, np.ones(8), space="signal-2-8", source=source, k=50)
    assert {match.media for match in found} == {"other.mp4"}
    assert {match.media for match in nearest(filled, MediaQuery(KEYS[0]), k=500, source=source)} == set(KEYS[1:])
    assert nearest(filled, MediaQuery("other.mp4"), source=source) == []


def test_a_vector_of_zeros_is_near_to_nothing(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.write(make_segments(embedding=np.zeros((9, 8))))
    assert {match.score for match in nearest(dataset, np.ones(8))} == {0.0}
