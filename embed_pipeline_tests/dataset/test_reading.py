from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_pipeline.dataset import EmbeddingDataset, ParquetEncoding, read_embeddings, schema
from embed_pipeline.dataset.paths import segment_path
from embed_pipeline.errors import ConfigurationError, DatasetError
from embed_pipeline_tests.dataset.values import DIGEST, make_segments

KEYS = ["a.mp4", "b/c.mp4", "d.mp3"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    dataset = EmbeddingDataset(str(tmp_path_factory.mktemp("dataset")))
    for key in KEYS:
        dataset.write(make_segments(key))
    dataset.compact()
    return dataset


some = st.none() | st.sets(st.sampled_from([*KEYS, "unknown.mp4"]))


@settings(max_examples=60, deadline=None)
@given(
    source=st.sampled_from(["segments", "snapshot"]),
    media=some,
    option=st.sampled_from([None, "visual", ["audio"], ["visual", "audio"], []]),
    scope=st.sampled_from([None, "clip", "asset"]),
    start=st.none() | st.floats(0, 30),
    end=st.none() | st.floats(0, 30),
)
def test_filters_give_what_filtering_everything_by_hand_gives(shared, source, media, option, scope, start, end):
    def wanted(row):
        return (
            (media is None or row["media"] in media)
            and (option is None or row["embedding_option"] in ([option] if isinstance(option, str) else option))
            and (scope is None or row["embedding_scope"] == scope)
            and (start is None or row["end_sec"] > start)
            and (end is None or row["start_sec"] < end)
        )

    table = read_embeddings(
        shared, source=source, media=media, option=option, scope=scope, start_sec=start, end_sec=end
    )
    everything = read_embeddings(shared, source=source).to_pylist()
    assert table.to_pylist() == [row for row in everything if wanted(row)]


def test_a_matrix_and_its_frame_go_row_by_row(shared):
    vectors, frame = read_embeddings(shared, to="matrix", media="b/c.mp4", columns=["start_sec", "embedding_option"])
    found = shared.read_media("b/c.mp4", DIGEST)
    np.testing.assert_array_equal(vectors, found.embedding)
    assert frame["start_sec"].tolist() == found.start_sec.tolist()
    assert list(frame.columns) == ["embedding_option", "start_sec"]


def test_a_frame_holds_one_array_per_row(shared):
    frame = read_embeddings(shared, to="pandas")
    assert np.stack(frame["embedding"]).shape == (27, 8)


def test_only_the_columns_that_were_asked_for_are_read(shared):
    for source in ("segments", "snapshot"):
        assert read_embeddings(shared, columns=["end_sec", "media"], source=source).column_names == ["media", "end_sec"]
    with pytest.raises(DatasetError, match="no column vector"):
        read_embeddings(shared, columns=["vector"])


def test_a_form_that_is_not_known_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="'numpy'; known are arrow, pandas, polars, matrix"):
        read_embeddings(str(tmp_path), to="numpy")


def test_a_dataset_that_is_empty_reads_as_no_rows(tmp_path):
    assert read_embeddings(str(tmp_path)).column_names == [column.name for column in schema.COLUMNS]
    vectors, frame = read_embeddings(str(tmp_path), to="matrix")
    assert len(vectors) == len(frame) == 0
    with pytest.raises(DatasetError, match="no snapshot yet"):
        read_embeddings(str(tmp_path), source="snapshot")


def test_two_spaces_are_only_read_together_when_asked(dataset):
    dataset.write(make_segments("a.mp4"))
    dataset.write(make_segments("b.mp4", dimension=4))
    with pytest.raises(DatasetError, match=r"space='marengo3\.0-4'"):
        read_embeddings(dataset)
    assert len(read_embeddings(dataset, space="marengo3.0-4")) == 9
    for _ in ("segments", "snapshot"):
        mixed = read_embeddings(dataset, mix_spaces=True)
        assert sorted(set(zip(mixed["media"].to_pylist(), mixed["space"].to_pylist(), strict=True))) == [
            ("a.mp4", "marengo3.0-8"),
            ("b.mp4", "marengo3.0-4"),
        ]
        assert {len(vector) for vector in mixed["embedding"].to_pylist()} == {4, 8}
        with pytest.raises(DatasetError, match="name one `space`"):
            read_embeddings(dataset, mix_spaces=True, to="matrix")
        dataset.compact()


def test_a_crash_between_two_spaces_shows_the_newer_result_only(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.write(make_segments(model_name="signal-2"))
    elsewhere = EmbeddingDataset(str(tmp_path / "elsewhere"))
    elsewhere.write(make_segments())
    folder = "segments/space=marengo3.0-8"
    (tmp_path / "elsewhere" / folder).rename(tmp_path / folder)
    assert set(read_embeddings(dataset)["model_name"].to_pylist()) == {"marengo3.0"}
    assert dataset.read_media("lectures/one.mp4", DIGEST).model_name == "marengo3.0"


VERSION_1 = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("media", pa.string(), nullable=False),
        pa.field("media_uri", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("media_type", pa.string(), nullable=False),
        pa.field("embedding_option", pa.string(), nullable=False),
        pa.field("embedding_scope", pa.string(), nullable=False),
        pa.field("segment_index", pa.int32(), nullable=False),
        pa.field("start_sec", pa.float64(), nullable=False),
        pa.field("end_sec", pa.float64(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("embedding_uncertainty", pa.list_(pa.float32(), 4)),
        pa.field("model_name", pa.string(), nullable=False),
        pa.field("settings_digest", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""What version 1 wrote, spelled out: it must stay readable, whatever becomes of the code."""


def write_version_1(root, media):
    row = {
        "segment_id": "0123",
        "media": media,
        "media_uri": f"s3://library/{media}",
        "fingerprint": "f",
        "media_type": "audio",
        "embedding_option": "audio",
        "embedding_scope": "clip",
        "segment_index": 0,
        "start_sec": 0.0,
        "end_sec": 6.0,
        "embedding": [0.5, 0.5, 0.5, -0.5],
        "embedding_uncertainty": None,
        "model_name": "marengo3.0",
        "settings_digest": DIGEST,
        "task_id": "t",
        "created_at": make_segments().created_at,
    }
    metadata = {
        "embed_pipeline.schema_version": "1",
        "embed_pipeline.model": "marengo3.0",
        "embed_pipeline.dimension": "4",
        "embed_pipeline.metric": "cosine",
        "embed_pipeline.space": "marengo3.0-4",
        "embed_pipeline.settings": "{}",
    }
    path = root / segment_path(media, "marengo3.0-4", DIGEST)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row], schema=VERSION_1.with_metadata(metadata)), path)
    return row


@pytest.fixture
def version_2(monkeypatch):
    """A later version of the contract, with a column more in the middle."""
    added = schema.Column("quadrant", "string", True, "Which part of the picture; null is all of it.")
    columns = (*schema.COLUMNS[:7], added, *schema.COLUMNS[7:])
    monkeypatch.setattr(schema, "COLUMNS", columns)
    monkeypatch.setattr("embed_pipeline.dataset.reading.COLUMNS", columns)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)


def test_version_1_is_what_is_written():
    assert schema.SCHEMA_VERSION == 1
    assert schema.segment_schema(4).remove_metadata().equals(VERSION_1)


def test_what_version_1_wrote_is_read_today(tmp_path):
    row = write_version_1(tmp_path, "old.mp3")
    assert read_embeddings(str(tmp_path)).to_pylist() == [row]
    assert EmbeddingDataset(str(tmp_path)).read_media("old.mp3", DIGEST).embedding.tolist() == [row["embedding"]]


def test_what_version_1_wrote_is_read_after_a_column_was_added(tmp_path, version_2):
    row = write_version_1(tmp_path, "old.mp3")
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.write(make_segments("new.mp4", dimension=4))
    for _ in ("segments", "snapshot"):
        table = read_embeddings(dataset)
        assert table.column_names[7] == "quadrant"
        assert table["quadrant"].null_count == len(table) == 10
        old = next(found for found in table.to_pylist() if found["media"] == "old.mp3")
        assert old == {**row, "quadrant": None}
        dataset.compact()
    assert read_embeddings(dataset, columns=["media", "quadrant"]).column_names == ["media", "quadrant"]


def test_a_snapshot_of_version_1_is_read_after_a_column_was_added(tmp_path, request):
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.write(make_segments())
    dataset.compact()
    request.getfixturevalue("version_2")
    for source in ("segments", "snapshot"):
        assert read_embeddings(dataset, source=source)["quadrant"].null_count == 9


def test_what_a_later_version_wrote_is_read_without_the_columns_that_are_not_known(tmp_path, request, monkeypatch):
    request.getfixturevalue("version_2")
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.write(make_segments())
    dataset.compact()
    monkeypatch.undo()
    for source in ("segments", "snapshot"):
        assert read_embeddings(dataset, source=source).column_names == [column.name for column in schema.COLUMNS]


def test_a_snapshot_of_either_layout_reads_the_same(tmp_path):
    tables = []
    for layout in ("fixed", "list"):
        dataset = EmbeddingDataset(str(tmp_path / layout), encoding=ParquetEncoding(layout=layout))
        uncertain = make_segments()
        dataset.write(dataclasses.replace(uncertain, embedding_uncertainty=np.abs(uncertain.embedding)))
        dataset.write(make_segments("plain.mp4"))
        snapshot = dataset.compact()
        stored = pq.read_schema(tmp_path / layout / snapshot.files[0].path).field("embedding").type
        assert pa.types.is_fixed_size_list(stored) == (layout == "fixed")
        tables.append(read_embeddings(dataset, source="snapshot"))
    assert tables[0].equals(tables[1])
    assert tables[0]["embedding_uncertainty"].null_count == 9


def test_readers_go_on_while_the_dataset_is_written(dataset):
    """Every file that is seen is whole, and old and new results of a media file are never mixed."""
    dataset.write(make_segments(seed=0, task_id="0"))
    stop = threading.Event()

    def write():
        seed = 0
        while not stop.is_set():
            seed += 1
            dataset.write(make_segments(seed=seed, task_id=str(seed)))
            if seed % 5 == 0:
                dataset.compact(retain=3)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for source in ("segments", "auto") * 20:
            table = read_embeddings(dataset, source=source)
            assert len(table) == 9
            assert len(set(table["task_id"].to_pylist())) == 1
    finally:
        stop.set()
        writer.join()


def test_a_retired_snapshot_is_read_from_its_successor(tmp_path, monkeypatch):
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.write(make_segments())
    dataset.compact()
    stale = dataset.snapshot()
    for seed in (1, 2):
        dataset.write(make_segments(seed=seed, task_id=str(seed)))
        dataset.compact(retain=1)
    answers = iter([stale, dataset.snapshot()])
    monkeypatch.setattr("embed_pipeline.dataset.reading.read_current", lambda storage: next(answers))
    assert set(read_embeddings(dataset)["task_id"].to_pylist()) == {"2"}
