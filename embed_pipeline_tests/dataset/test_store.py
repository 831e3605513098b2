from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from embed_pipeline.dataset import (
    SCHEMA_VERSION,
    EmbeddingDataset,
    ParquetEncoding,
    column_descriptions,
    segment_schema,
)
from embed_pipeline.dataset.storage import Storage
from embed_pipeline.errors import DatasetError
from embed_pipeline_tests.dataset.values import DIGEST, make_segments


def assert_same(found, written):
    order = np.lexsort((written.end_sec, written.start_sec, written.embedding_scope, written.embedding_option))
    for field in dataclasses.fields(written):
        expected, value = getattr(written, field.name), getattr(found, field.name)
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(value, expected[order])
        elif isinstance(expected, tuple):
            assert value == tuple(expected[row] for row in order)
        else:
            assert value == expected, field.name


def test_what_was_written_is_read_back(dataset):
    segments = make_segments()
    written = dataset.write(segments)
    assert written.rows == len(segments)
    assert_same(dataset.read_media(segments.media, DIGEST), segments)


def test_uncertainty_is_read_back_where_there_is_one(dataset):
    plain = make_segments()
    segments = dataclasses.replace(plain, embedding_uncertainty=np.abs(plain.embedding))
    dataset.write(segments)
    assert_same(dataset.read_media(segments.media, DIGEST), segments)


@pytest.mark.parametrize("encoding", [ParquetEncoding(), ParquetEncoding(layout="list", byte_stream_split=True)])
def test_uncertainty_takes_no_column_where_it_was_not_asked_for(tmp_path, encoding):
    """Readers that cannot take nulls among fixed-size lists never meet any."""
    dataset = EmbeddingDataset(str(tmp_path), encoding=encoding)
    written = dataset.write(make_segments())
    [compacted] = dataset.compact().files
    for path in (written.path, compacted.path):
        assert pq.read_schema(tmp_path / path).names == [
            name for name in column_descriptions() if name != "embedding_uncertainty"
        ]


def test_the_list_layout_is_read_back_the_same(dataset):
    listed = dataclasses.replace(dataset, encoding=ParquetEncoding(layout="list", byte_stream_split=True))
    segments = make_segments()
    written = listed.write(segments)
    assert_same(listed.read_media(segments.media, DIGEST), segments)
    assert_same(dataset.read_media(segments.media, DIGEST), segments)
    if dataset.storage.is_local:
        schema = pq.read_schema(written.uri)
        assert str(schema.field("embedding").type) == "list<element: float>"


def test_a_media_file_that_is_not_there_is_none(dataset):
    assert dataset.read_media("nothing.mp4", DIGEST) is None
    assert dataset.find("nothing.mp4", DIGEST) == []
    assert dataset.delete("nothing.mp4") == 0
    assert list(dataset.media(DIGEST)) == []
    assert dataset.copy_media("nothing.mp4", "other.mp4", "s3://library/other.mp4", DIGEST) is None


def test_a_result_in_another_space_takes_the_place_of_the_old_one(dataset):
    old = make_segments(model_name="signal-2")
    other = make_segments("lectures/two.mp4", model_name="signal-2")
    dataset.write(old)
    dataset.write(other)
    new = make_segments(model_name="marengo3.0")
    written = dataset.write(new)
    assert written.replaced == (f"segments/space=signal-2-8/settings={DIGEST}/{written.path.rpartition('/')[2]}",)
    assert [file.space for file in dataset.find(new.media, DIGEST)] == ["marengo3.0-8"]
    assert [file.space for file in dataset.find(other.media, DIGEST)] == ["signal-2-8"]


def test_results_under_other_settings_stay(dataset):
    dataset.write(make_segments(settings_digest="old"))
    dataset.write(make_segments(settings_digest="new"))
    assert dataset.read_media("lectures/one.mp4", "old").settings_digest == "old"
    assert dataset.delete("lectures/one.mp4", "old") == 1
    assert dataset.read_media("lectures/one.mp4", "old") is None
    assert dataset.read_media("lectures/one.mp4", "new") is not None


def test_deleting_takes_every_result_of_a_media_file_and_no_other(dataset):
    for media in ("a.mp4", "b.mp4"):
        for digest in ("one", "two"):
            dataset.write(make_segments(media, settings_digest=digest))
    assert dataset.delete("a.mp4") == 2
    assert [list(dataset.media(digest)) for digest in ("one", "two")] == [["b.mp4"], ["b.mp4"]]


def test_a_renamed_media_file_keeps_its_vectors_and_segment_ids(dataset):
    segments = make_segments("old.mp4")
    dataset.write(segments)
    dataset.copy_media("old.mp4", "new.mp4", "s3://library/new.mp4", DIGEST)
    copy = dataset.read_media("new.mp4", DIGEST)
    assert_same(copy, dataclasses.replace(segments, media="new.mp4", media_uri="s3://library/new.mp4"))
    assert copy.segment_ids == dataset.read_media("old.mp4", DIGEST).segment_ids


def test_the_keys_that_are_present_are_listed_even_those_too_long_for_a_name(dataset):
    keys = {"a.mp4", "A.mp4", "_hidden/.b%2Cc.wav", "Übung/音声.mp3", "x/" * 250 + "long.mp4"}
    for key in keys:
        dataset.write(make_segments(key))
    assert sorted(dataset.media(DIGEST)) == sorted(keys)


def test_the_file_has_the_schema_and_the_metadata_of_its_result(tmp_path):
    segments = make_segments()
    segments = dataclasses.replace(segments, embedding_uncertainty=np.abs(segments.embedding))
    written = EmbeddingDataset(str(tmp_path)).write(segments)
    schema = pq.read_schema(written.uri)
    assert schema.remove_metadata().equals(segment_schema(8).remove_metadata())
    assert {field.name: field.metadata[b"description"].decode() for field in schema} == column_descriptions()
    facts = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert facts == {
        "embed_pipeline.schema_version": str(SCHEMA_VERSION),
        "embed_pipeline.model": "marengo3.0",
        "embed_pipeline.dimension": "8",
        "embed_pipeline.metric": "cosine",
        "embed_pipeline.space": "marengo3.0-8",
        "embed_pipeline.settings": '{"embedding_option": ["visual", "audio"], "model_name": "marengo3.0"}',
        "embed_pipeline.settings_digest": DIGEST,
        "embed_pipeline.media": "lectures/one.mp4",
        "embed_pipeline.media_uri": "s3://library/lectures/one.mp4",
        "embed_pipeline.fingerprint": "sha256:lectures/one.mp4",
        "embed_pipeline.media_type": "video",
        "embed_pipeline.task_id": "task-lectures/one.mp4",
        "embed_pipeline.created_at": "2026-03-01T12:30:15.123456+00:00",
        "embed_pipeline.duration_sec": "24.0",
    }


def test_rows_are_sorted_and_counted_within_option_and_scope(tmp_path):
    written = EmbeddingDataset(str(tmp_path)).write(make_segments(clips=3))
    rows = pq.read_table(written.uri).select(["embedding_option", "embedding_scope", "segment_index", "start_sec"])
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        ("audio", "clip", 0, 0.0),
        ("audio", "clip", 1, 6.0),
        ("audio", "clip", 2, 12.0),
        ("visual", "asset", 0, 0.0),
        ("visual", "clip", 0, 0.0),
        ("visual", "clip", 1, 6.0),
        ("visual", "clip", 2, 12.0),
    ]


def test_vectors_are_not_dictionary_encoded_and_words_are(tmp_path):
    written = EmbeddingDataset(str(tmp_path)).write(make_segments(clips=50))
    group = pq.ParquetFile(written.uri).metadata.row_group(0)
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    assert not any("DICTIONARY" in encoding for encoding in encodings["embedding.list.element"])
    assert any("DICTIONARY" in encoding for encoding in encodings["media"])


def test_a_damaged_file_is_named(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    written = dataset.write(make_segments())
    with Path(written.uri).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DatasetError, match=r"one\.mp4-.*\.parquet is damaged "):
        dataset.read_media("lectures/one.mp4", DIGEST)


def test_a_file_of_someone_else_is_named(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    written = dataset.write(make_segments())
    pq.write_table(pq.read_table(written.uri).replace_schema_metadata(None), written.uri)
    with pytest.raises(DatasetError, match="is no file of this dataset"):
        dataset.read_media("lectures/one.mp4", DIGEST)


def test_a_root_that_no_file_system_knows_is_named():
    with pytest.raises(DatasetError, match="gopher://somewhere"):
        EmbeddingDataset("gopher://somewhere").spaces()


def test_a_failed_write_leaves_the_old_result_and_no_leftover(tmp_path, monkeypatch):
    dataset = EmbeddingDataset(str(tmp_path))
    old = make_segments(seed=1)
    written = dataset.write(old)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DatasetError, match=r"Cannot write .*one\.mp4.*No space left"):
        dataset.write(make_segments(seed=2))
    assert_same(dataset.read_media(old.media, DIGEST), old)
    assert [file.name for file in (tmp_path / written.path).parent.iterdir()] == [(tmp_path / written.path).name]


def test_two_writers_in_two_spaces_never_lose_both_results(dataset, monkeypatch):
    ours, theirs = make_segments(model_name="marengo3.0"), make_segments(model_name="signal-2")
    dataset.write(theirs)
    remove = Storage.remove

    def remove_and_be_removed(storage, path):
        # The other writer, at the same moment, takes our file for the old one.
        return remove(storage, path) and remove(storage, path.replace("signal-2", "marengo3.0"))

    monkeypatch.setattr(Storage, "remove", remove_and_be_removed)
    dataset.write(ours)
    assert_same(dataset.read_media(ours.media, DIGEST), ours)


def test_a_result_that_moves_to_another_space_while_it_is_looked_for_is_found(dataset, monkeypatch):
    dataset.write(make_segments("other.mp4", model_name="marengo3.0"))
    dataset.write(make_segments(model_name="signal-2"))
    moved = make_segments(model_name="marengo3.0")
    for step in ("info", "open"):
        do = getattr(Storage, step)

        def look(storage, path, do=do):
            if "signal-2" in path:
                monkeypatch.undo()
                dataset.write(moved)
            return do(storage, path)

        monkeypatch.setattr(Storage, step, look)
        assert_same(dataset.read_media(moved.media, DIGEST), moved)
        monkeypatch.undo()
        dataset.delete(moved.media)
        dataset.write(make_segments(model_name="signal-2"))


def test_a_dataset_can_be_pickled_after_use(dataset):
    dataset.write(make_segments())
    again = pickle.loads(pickle.dumps(dataset))
    assert again == dataset
    assert again.read_media("lectures/one.mp4", DIGEST) is not None


def test_importing_the_room_loads_nothing_heavy():
    heavy = "{'pyarrow', 'pandas', 'numpy', 'fsspec', 'dagster'}"
    code = f"import sys, embed_pipeline.dataset; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
