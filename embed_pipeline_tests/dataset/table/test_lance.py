from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from embed_pipeline.dataset import EmbeddingDataset, ParquetEncoding, nearest, publish_lance, read_embeddings
from embed_pipeline.dataset.table import lance
from embed_pipeline.errors import ConfigurationError, DatasetError
from embed_pipeline_tests.dataset.values import DIGEST, make_segments

lancedb = pytest.importorskip("lancedb", reason="publishing comes with the extra `lance`")

BTree = pytest.importorskip("lancedb.index").BTree

SPACE = "marengo3.0-8"
KEYS = ["a.mp4", "b/it's.mp4", "c.mp4", "d.mp4"]


@pytest.fixture
def dataset(tmp_path):
    # Row groups of four rows, so that the nine rows of a result are read in parts.
    dataset = EmbeddingDataset(str(tmp_path / "dataset"), encoding=ParquetEncoding(row_group_rows=4))
    for key in KEYS:
        dataset.write(make_segments(key))
    dataset.compact()
    return dataset


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "lance")


def rows_in(uri, space=SPACE):
    table = lancedb.connect(uri).open_table(space).to_arrow().drop_columns(["source_version"])
    return sorted(map(str, table.to_pylist()))


def rows_of(dataset, space=SPACE):
    table = read_embeddings(dataset, source="snapshot", space=space).drop_columns(["embedding_uncertainty"])
    return sorted(map(str, table.to_pylist()))


def changes(tables):
    return [(table.name, table.rows, table.added, table.replaced, table.removed) for table in tables]


def test_the_lance_table_holds_the_rows_of_the_snapshot(dataset, uri):
    assert changes(publish_lance(dataset, uri)) == [(SPACE, 36, 4, 0, 0)]
    assert rows_in(uri) == rows_of(dataset)


def test_only_results_that_changed_are_written_again(dataset, uri):
    publish_lance(dataset.root, uri)
    dataset.write(make_segments(KEYS[1], seed=3, clips=2))
    dataset.write(make_segments("new.mp4"))
    dataset.delete(KEYS[2])
    dataset.write(make_segments(KEYS[0], settings_digest="other"))
    dataset.compact()
    # Of KEYS[0] the rows of its first settings stay as they are.
    assert changes(publish_lance(dataset, uri)) == [(SPACE, 36 - 4 + 9 - 9 + 9, 2, 1, 1)]
    assert rows_in(uri) == rows_of(dataset)
    version = lancedb.connect(uri).open_table(SPACE).version
    [table] = publish_lance(dataset, uri)
    assert (table.added, table.replaced, table.removed, table.version) == (0, 0, 0, version)


def test_a_search_in_lance_finds_what_the_dataset_finds(dataset, uri):
    publish_lance(dataset, uri)
    query = np.random.default_rng(1).normal(size=8)
    found = lancedb.connect(uri).open_table(SPACE).search(query).distance_type("cosine").limit(5).to_list()
    expected = nearest(dataset, query, k=5)
    assert [(row["media"], row["segment_id"]) for row in found] == [(m.media, m.segment_id) for m in expected]


def test_each_vector_space_has_a_table_and_one_that_left_is_emptied(dataset, uri):
    dataset.write(make_segments(KEYS[0], model_name="signal-2"))
    dataset.compact()
    assert changes(publish_lance(dataset, uri)) == [(SPACE, 27, 3, 0, 0), ("signal-2-8", 9, 1, 0, 0)]
    dataset.write(make_segments(KEYS[0]))
    dataset.compact()
    assert changes(publish_lance(dataset, uri)) == [(SPACE, 36, 1, 0, 0), ("signal-2-8", 0, 0, 0, 1)]
    assert rows_in(uri) == rows_of(dataset)


def test_tables_of_others_are_left_alone(dataset, uri):
    database = lancedb.connect(uri)
    database.create_table("notes", [{"text": "mine"}])
    publish_lance(dataset, uri)
    assert database.open_table("notes").count_rows() == 1
    database.drop_table(SPACE)
    database.create_table(SPACE, [{"text": "mine"}])
    with pytest.raises(DatasetError, match=f"table '{SPACE}' .* was not published from a dataset"):
        publish_lance(dataset, uri)
    assert database.open_table(SPACE).count_rows() == 1


@pytest.mark.parametrize("step", range(4))
def test_a_publish_that_died_is_completed_by_the_next(dataset, uri, monkeypatch, step):
    monkeypatch.setattr(lance, "_BATCH_ROWS", 1)
    publish_lance(dataset, uri)
    for key in KEYS[:3]:
        dataset.write(make_segments(key, seed=5))
    dataset.write(make_segments("new.mp4"))
    dataset.delete(KEYS[3])
    dataset.compact()
    write, written = lance._write, []

    def die(*arguments):
        if len(written) == step:
            raise KeyboardInterrupt
        written.append(arguments)
        write(*arguments)

    monkeypatch.setattr(lance, "_write", die)
    with pytest.raises(KeyboardInterrupt):
        publish_lance(dataset, uri)
    monkeypatch.setattr(lance, "_write", write)
    [table] = publish_lance(dataset, uri)
    assert table.added + table.replaced == 4 - step
    assert rows_in(uri) == rows_of(dataset)


@pytest.mark.parametrize("batch", [1, 9, 10, 20, 1000])
def test_a_result_is_never_parted(dataset, uri, monkeypatch, batch):
    monkeypatch.setattr(lance, "_BATCH_ROWS", batch)
    write, sizes = lance._write, []

    def note(table, added, replaced):
        sizes.append(len(added))
        write(table, added, replaced)

    monkeypatch.setattr(lance, "_write", note)
    publish_lance(dataset, uri)
    assert sum(sizes) == 36
    assert all(size % 9 == 0 for size in sizes)
    assert len(sizes) == {1: 4, 9: 4, 10: 4, 20: 2, 1000: 1}[batch]
    assert rows_in(uri) == rows_of(dataset)


def test_an_index_takes_in_rows_that_are_published_later(tmp_path, uri):
    dataset = EmbeddingDataset(str(tmp_path / "dataset"))
    dataset.write(make_segments(clips=200))
    dataset.compact()
    publish_lance(dataset, uri)
    table = lancedb.connect(uri).open_table(SPACE)
    table.create_index("media", config=BTree())
    dataset.write(make_segments("new.mp4"))
    dataset.compact()
    publish_lance(dataset, uri, optimize=False)
    table.checkout_latest()
    [index] = table.list_indices()
    assert table.index_stats(index.name).num_unindexed_rows == 9
    dataset.write(make_segments("newer.mp4"))
    dataset.compact()
    publish_lance(dataset, uri)
    table.checkout_latest()
    assert table.index_stats(index.name).num_unindexed_rows == 0


def test_uncertainties_do_not_keep_a_dataset_from_being_published(dataset, uri):
    plain = make_segments("u.mp4")
    dataset.write(dataclasses.replace(plain, embedding_uncertainty=np.abs(plain.embedding)))
    dataset.compact()
    publish_lance(dataset, uri)
    assert rows_in(uri) == rows_of(dataset)


def test_an_earlier_snapshot_can_be_published_again(dataset, uri):
    first = dataset.snapshot()
    dataset.write(make_segments(KEYS[0], seed=9))
    dataset.compact()
    publish_lance(dataset, uri)
    dataset.rollback(first.snapshot_id)
    assert changes(publish_lance(dataset, uri)) == [(SPACE, 36, 0, 1, 0)]
    assert rows_in(uri) == rows_of(dataset)


def test_a_snapshot_that_is_retired_meanwhile_is_followed_by_its_successor(dataset, uri, monkeypatch):
    read_sources = lance.snapshots.read_sources

    def read_then_retire(storage, snapshot):
        sources = read_sources(storage, snapshot)
        monkeypatch.undo()
        dataset.write(make_segments(KEYS[0], seed=2))
        dataset.compact(retain=1)
        return sources

    monkeypatch.setattr(lance.snapshots, "read_sources", read_then_retire)
    publish_lance(dataset, uri)
    assert rows_in(uri) == rows_of(dataset)


def test_what_cannot_be_published_is_refused(tmp_path, uri, dataset, monkeypatch):
    empty = EmbeddingDataset(str(tmp_path / "empty"))
    with pytest.raises(DatasetError, match="no snapshot to publish: build embeddings_table first"):
        publish_lance(empty, uri)
    with pytest.raises(DatasetError, match=r"Lance database .* a password") as caught:
        publish_lance(dataset, "s3://key:hunter2@bucket/lance")
    assert "hunter2" not in str(caught.value)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DatasetError, match="Cannot publish to Lance in"):
        publish_lance(dataset, str(tmp_path / "file" / "lance"))
    dataset.storage.remove(dataset.snapshot().sources_path)
    with pytest.raises(DatasetError, match=r"sources\.parquet is missing.*Build embeddings_table again"):
        publish_lance(dataset, uri)
    assert dataset.compact().media == 4
    publish_lance(dataset, uri)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ConfigurationError, match=r"embed-pipeline\[lance\]"):
        publish_lance(dataset, uri)


def test_an_empty_table_is_published_as_one(tmp_path, uri):
    dataset = EmbeddingDataset(str(tmp_path / "dataset"))
    dataset.compact()
    assert publish_lance(dataset, uri) == []
    dataset.write(make_segments())
    dataset.compact()
    publish_lance(dataset, uri)
    dataset.delete("lectures/one.mp4", DIGEST)
    dataset.compact()
    assert changes(publish_lance(dataset, uri)) == [(SPACE, 0, 0, 0, 1)]
