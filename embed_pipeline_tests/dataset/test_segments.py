from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.dataset import (
    EmbeddingDataset,
    MediaSegments,
    column_descriptions,
    media_fragment,
    read_embeddings,
    segment_id,
    vector_space,
)
from embed_pipeline.dataset.schema import conform
from embed_pipeline.errors import DatasetError
from embed_pipeline.redaction import without_credentials
from embed_pipeline_tests.dataset.values import CREATED_AT, make_segments


def one_bad(column, row, value):
    array = np.array(getattr(make_segments(), column))
    array[row] = value
    return {column: array}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (one_bad("embedding", 3, np.nan), r"embedding of row 3 \(visual, clip\) is not finite"),
        (one_bad("embedding", 8, np.inf), r"embedding of row 8 \(visual, asset\) is not finite"),
        (one_bad("start_sec", 2, -1.0), r"start_sec of row 2 \(visual, clip\) is -1\.0"),
        (one_bad("end_sec", 5, np.nan), r"end_sec of row 5 \(audio, clip\) is nan"),
        (one_bad("end_sec", 1, 3.0), r"row 1 \(visual, clip\) ends at 3\.0 s, before it starts at 6\.0 s"),
        ({"start_sec": np.zeros(3)}, "start_sec has 3 rows where embedding_option has 9"),
        ({"end_sec": np.zeros((9, 1))}, r"end_sec has the shape \(9, 1\)"),
        ({"embedding": np.zeros((9, 0)), "space": "marengo3.0-8"}, r"embedding has the shape \(9, 0\)"),
        ({"embedding": np.zeros(9), "space": "marengo3.0-8"}, r"embedding has the shape \(9,\)"),
        ({"embedding": [["a"]], "space": "marengo3.0-8"}, "embedding is not an array of numbers"),
        ({"embedding_uncertainty": np.zeros((9, 7))}, r"embedding_uncertainty has the shape \(9, 7\)"),
        ({"embedding_uncertainty": np.full((9, 8), np.nan)}, "embedding_uncertainty of row 0"),
        ({"embedding_option": []}, "not one segment"),
        ({"embedding_option": [None] * 9}, "embedding_option of row 0 is None"),
        ({"media_type": "image"}, "media_type is 'image'"),
        ({"fingerprint": ""}, "fingerprint is empty"),
        ({"created_at": dt.datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"space": "signal-2-8"}, r"belong to 'marengo3\.0-8'; model_name must name what computed"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(changes, problem):
    with pytest.raises(DatasetError, match=f"'lectures/one.mp4' cannot be stored: .*{problem}"):
        make_segments(**changes)


def test_settings_that_could_not_be_a_folder_are_refused():
    with pytest.raises(DatasetError, match=r"settings_digest '\.\./x' cannot be part of a path"):
        make_segments(settings_digest="../x")


def test_a_vector_space_names_model_and_dimension():
    assert vector_space("signal-2", 512) == "signal-2-512"
    with pytest.raises(DatasetError, match="positive"):
        vector_space("signal-2", 0)


def test_segment_ids_are_a_contract():
    # Consumers hold these ids: this very value must never change.
    assert segment_id("sha256:ab", "0a1b", "visual", "clip", 12.5, 18.0) == "5e7bd4280179b55cd90fa9985c8ef6aa"


def test_segment_ids_depend_on_content_and_not_on_names_times_or_tasks():
    segments = make_segments()
    renamed = dataclasses.replace(
        segments, media="b.mp4", media_uri="s3://b", task_id="t2", created_at=CREATED_AT + dt.timedelta(1)
    )
    assert renamed.segment_ids == segments.segment_ids
    for change in ({"fingerprint": "x"}, {"settings_digest": "y"}, {"start_sec": segments.start_sec + 1e-3}):
        changed = dataclasses.replace(segments, **{"end_sec": segments.end_sec + 1, **change})
        assert not set(changed.segment_ids) & set(segments.segment_ids)


def test_segments_convert_to_the_rows_that_the_dataset_holds(tmp_path):
    segments = make_segments()
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.write(segments)
    stored = read_embeddings(dataset).drop_columns(["embedding_uncertainty"])
    assert segments.to_arrow().replace_schema_metadata(None).equals(stored.replace_schema_metadata(None))
    pd.testing.assert_frame_equal(segments.to_pandas(), stored.to_pandas())


def test_uncertainty_is_a_column_where_there_is_one():
    plain = make_segments()
    uncertain = dataclasses.replace(plain, embedding_uncertainty=np.abs(plain.embedding))
    frame = uncertain.to_pandas()
    np.testing.assert_array_equal(np.abs(np.stack(frame["embedding"])), np.stack(frame["embedding_uncertainty"]))
    assert list(frame.columns) == list(column_descriptions())


@pytest.mark.parametrize("layout", ["fixed", "list"])
def test_segments_come_back_from_their_rows(layout):
    segments = make_segments()
    table = conform(segments.to_arrow(layout), segments.dimension)
    again = MediaSegments.from_arrow(table, segments.file_metadata)
    assert again.to_arrow().equals(segments.to_arrow())
    assert again.file_metadata == segments.file_metadata
    with pytest.raises(DatasetError, match=r"'lectures/one\.mp4' holds not one segment"):
        MediaSegments.from_arrow(table.slice(0, 0), segments.file_metadata)


def test_rows_with_equal_offsets_still_have_ids_of_their_own():
    segments = make_segments(start_sec=np.zeros(9), end_sec=np.ones(9))
    assert len(set(segments.segment_ids)) == 9


def test_a_media_uri_never_holds_credentials():
    segments = make_segments(media_uri="https://me:secret@example.com/a.mp4?X-Amz-Signature=abc&x=1")
    assert segments.media_uri == "https://example.com/a.mp4"


@pytest.mark.parametrize("uri", ["/library/a?b.mp4", "s3://bucket/a.mp4", "file:///a%20b"])
def test_uris_without_credentials_stay_as_they_are(uri):
    assert without_credentials(uri) == uri


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_fragments_are_decimals_that_players_understand(start, end):
    link = media_fragment("https://example.com/a.mp4#old", start, end)
    base, _, times = link.partition("#t=")
    assert base == "https://example.com/a.mp4"
    assert [float(time) for time in times.split(",")] == pytest.approx([start, end], abs=6e-4)
    assert "e" not in times


def test_a_fragment_is_as_short_as_can_be():
    assert media_fragment("s3://b/a.mp4", 12.5, 18) == "s3://b/a.mp4#t=12.5,18"
