from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_pipeline.dataset import EmbeddingDataset, near_duplicates, read_embeddings
from embed_pipeline.dataset import duplicates as duplicates_module
from embed_pipeline.dataset.search import unit_rows
from embed_pipeline.errors import DatasetError
from embed_pipeline_tests.dataset.values import DIGEST, make_segments

KEYS = [f"{number}.mp4" for number in range(5)]


@pytest.fixture(params=["segments", "snapshot"])
def source(request):
    return request.param


@pytest.fixture
def filled(dataset):
    for key in KEYS:
        dataset.write(make_segments(key, clips=10))
    return dataset


def test_copies_are_found_as_duplicates(filled, source):
    original = filled.read_media(KEYS[1], DIGEST)
    noise = np.random.default_rng(5).normal(scale=1e-3, size=original.embedding.shape)
    filled.write(dataclasses.replace(original, media="copy.mp4", fingerprint="b", embedding=original.embedding + noise))
    if source == "snapshot":
        filled.compact()
    pairs = near_duplicates(filled, threshold=0.999, source=source)
    assert len(pairs) == len(original)
    for pair in pairs:
        assert {pair.first.media, pair.second.media} == {KEYS[1], "copy.mp4"}
        assert (pair.first.embedding_option, pair.first.start_sec) == (
            pair.second.embedding_option,
            pair.second.start_sec,
        )
    assert len(near_duplicates(filled, threshold=0.999, source=source, scope="asset")) == 1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    threshold=st.sampled_from([-1.0, 0.0, 0.4, 0.8]),
    limit=st.integers(1, 40),
    within=st.booleans(),
    block=st.integers(3, 20),
)
def test_the_pairs_are_those_of_the_whole_matrix(tmp_path_factory, seed, threshold, limit, within, block):
    dataset = EmbeddingDataset(str(tmp_path_factory.mktemp("dataset")))
    for key in KEYS[:3]:
        dataset.write(make_segments(key, clips=3, dimension=4, seed=seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates_module, "_BLOCK_ROWS", block)
        pairs = near_duplicates(dataset, threshold=threshold, limit=limit, within_media=within)
    vectors, frame = read_embeddings(dataset, to="matrix")
    scores = unit_rows(vectors) @ unit_rows(vectors).T
    expected = sorted(
        (
            scores[i, j]
            for i in range(len(frame))
            for j in range(i + 1, len(frame))
            if scores[i, j] >= threshold
            and frame["embedding_option"][i] == frame["embedding_option"][j]
            and frame["embedding_scope"][i] == frame["embedding_scope"][j]
            and (within or frame["media"][i] != frame["media"][j])
        ),
        reverse=True,
    )[:limit]
    np.testing.assert_allclose([pair.score for pair in pairs], expected, atol=1e-6)


def test_media_files_can_be_left_out_and_an_unknown_option_is_refused(filled, source):
    original = filled.read_media(KEYS[1], DIGEST)
    filled.write(dataclasses.replace(original, media="copy.mp4"))
    if source == "snapshot":
        filled.compact()
    assert len(near_duplicates(filled, threshold=0.999, source=source)) == len(original)
    assert near_duplicates(filled, threshold=0.999, source=source, exclude_media="copy.mp4") == []
    with pytest.raises(DatasetError, match="no segments of the option 'foo'; it has 'audio', 'visual'"):
        near_duplicates(filled, option="foo", source=source)


def test_duplicates_refuse_what_makes_no_sense(tmp_path):
    with pytest.raises(DatasetError, match="threshold"):
        near_duplicates(str(tmp_path), threshold=2)
    assert near_duplicates(str(tmp_path)) == []
