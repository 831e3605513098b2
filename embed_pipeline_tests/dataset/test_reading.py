from __future__ import annotations

import dataclasses
import sys
import threading

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_pipeline.dataset import EmbeddingDataset, ParquetEncoding, read_embeddings, schema
from embed_pipeline.dataset.paths import segment_path
from embed_pipeline.dataset.storage import Storage
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
    exclude=some,
    option=st.sampled_from([None, "visual", ["audio"], ["visual", "audio"], []]),
    scope=st.sampled_from([None, "clip", "asset"]),
    start=st.none() | st.floats(0, 30),
    end=st.none() | st.floats(0, 30),
)
def test_filters_give_what_filtering_everything_by_hand_gives(
    shared, source, media, exclude, option, scope, start, end
):
    def wanted(row):
        return (
            (media is None or row["media"] in media)
            and (exclude is None or row["media"] not in exclude)
            and (option is None or row["embedding_option"] in ([option] if isinstance(option, str) else option))
            and (scope is None or row["embedding_scope"] == scope)
            and (start is None or row["end_sec"] > start)
            and (end is None or row["start_sec"] < end)
        )

    table = read_embeddings(
        shared,
        source=source,
        media=media,
        exclude_media=exclude,
        option=option,
        scope=scope,
        start_sec=start,
        end_sec=end,
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


def test_a_polars_frame_holds_the_same_rows_and_arrays(shared):
    table = read_embeddings(shared)
    frame = read_embeddings(shared, to="polars")
    assert frame["embedding"].dtype == pl.Array(pl.Float32, 8)
    assert frame.to_arrow().to_pylist() == table.to_pylist()
    empty = read_embeddings(shared, to="polars", media="unknown.mp4")
    assert (len(empty), empty.columns) == (0, table.column_names)


def test_polars_that_is_not_installed_is_named(shared, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigurationError, match=r'pip install "polars'):
        read_embeddings(shared, to="polars")


def opened_files(monkeypatch):
    """The paths of the files whose rows are read from now on."""
    opened = []
    do = Storage.open

    def note(storage, path):
        opened.append(path)
        return do(storage, path)

    monkeypatch.setattr(Storage, "open", note)
    return opened


def test_files_that_are_filtered_out_are_not_opened(dataset, monkeypatch):
    monkeypatch.setattr("embed_pipeline.dataset.store._LOOKUPS_AT_MOST", 5)
    keys = [f"{number:03}.mp4" for number in range(20)]
    for key in keys:
        dataset.write(make_segments(key, clips=1, dimension=2))
    opened = opened_files(monkeypatch)
    # Few keys are looked up one by one, many are picked from a listing.
    for wanted in (keys[:3], keys[:12]):
        table = read_embeddings(dataset, source="segments", media=wanted, exclude_media=keys[1], columns=["media"])
        assert sorted(set(table["media"].to_pylist())) == [wanted[0], *wanted[2:]]
        assert len(opened) == len(wanted) - 1
        opened.clear()
    assert len(read_embeddings(dataset, source="segments", exclude_media=set(keys[5:]))) == 5 * 3
    assert len(opened) == 5


def test_few_media_files_are_found_without_a_listing_of_all(dataset, monkeypatch):
    for key in KEYS:
        dataset.write(make_segments(key))
        dataset.write(make_segments(key, settings_digest="other"))

    def never(storage, path):
        raise AssertionError(path)

    monkeypatch.setattr(Storage, "files", never)
    table = read_embeddings(dataset, source="segments", media=KEYS[:2])
    assert set(zip(table["media"].to_pylist(), table["settings_digest"].to_pylist(), strict=True)) == {
        (key, digest) for key in KEYS[:2] for digest in (DIGEST, "other")
    }


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


def test_a_table_with_a_changed_bit_is_not_read(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.write(make_segments(clips=200, dimension=64))
    [file] = dataset.compact().files
    path = tmp_path / file.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"{path.name} cannot be read .* delete .*manifest\.json and build"):
        read_embeddings(dataset)
    # The remedy that the message names.
    (tmp_path / "embeddings_table" / "manifest.json").unlink()
    dataset.compact()
    assert read_embeddings(dataset).equals(read_embeddings(dataset, source="segments"))
