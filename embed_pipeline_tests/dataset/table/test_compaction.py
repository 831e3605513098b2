from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_pipeline.dataset import KEY_COLUMNS, EmbeddingDataset, ParquetEncoding, SnapshotFile, read_embeddings
from embed_pipeline.dataset.table import compaction
from embed_pipeline.dataset.table.compaction import compact, plan_compaction
from embed_pipeline.dataset.table.snapshot import Source
from embed_pipeline.errors import DatasetError
from embed_pipeline_tests.dataset.values import DIGEST, make_segments

KEYS = [f"show {number:02}/part.mp4" for number in range(6)]


def fill(dataset, keys=KEYS, **changes):
    for key in keys:
        dataset.write(make_segments(key, **changes))


def rows_of(dataset, source):
    table = read_embeddings(dataset, source=source)
    return sorted(map(str, table.to_pylist()))


def file_bytes(dataset):
    """About the size of one media file's segments."""
    return next(iter(dataset.segment_files())).size_bytes


def test_the_snapshot_holds_what_the_segments_hold(dataset):
    fill(dataset)
    snapshot = dataset.compact()
    assert (snapshot.media, snapshot.rows, len(snapshot.files)) == (6, 54, 1)
    assert dataset.snapshot() == snapshot
    assert rows_of(dataset, "snapshot") == rows_of(dataset, "segments")


def test_a_snapshot_is_sorted_and_its_files_match_the_manifest(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path), encoding=ParquetEncoding(row_group_rows=10))
    fill(dataset)
    snapshot = dataset.compact(target_bytes=2 * file_bytes(dataset))
    assert len(snapshot.files) > 1
    seen = []
    for file, uri in zip(snapshot.files, dataset.snapshot_uris(), strict=True):
        data = Path(uri).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)
        parquet = pq.ParquetFile(uri)
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        assert set(groups[:-1]) <= {10}
        assert groups[-1] <= 10
        assert sum(groups) == file.rows
        media = parquet.read(columns=["media"])["media"].to_pylist()
        assert (media[0], media[-1], len(set(media))) == (file.first_media, file.last_media, file.media)
        seen += media
    assert seen == sorted(seen)


def test_nothing_new_makes_no_new_snapshot(dataset):
    fill(dataset)
    assert dataset.compact() == dataset.compact()


def test_an_empty_dataset_has_an_empty_snapshot(dataset):
    assert dataset.compact().rows == 0
    assert len(read_embeddings(dataset)) == 0


def test_only_files_that_changed_are_written_again(dataset):
    fill(dataset, clips=100, dimension=64)
    size = file_bytes(dataset)
    first = dataset.compact(target_bytes=3.5 * size)
    dataset.write(make_segments(KEYS[0], clips=100, dimension=64, seed=7))
    second = dataset.compact(target_bytes=3.5 * size)
    untouched = [file for file in first.files if file.first_media != KEYS[0]]
    assert untouched
    assert set(untouched) <= set(second.files)
    assert {file.first_media for file in second.written_files} == {KEYS[0]}
    assert rows_of(dataset, "snapshot") == rows_of(dataset, "segments")


def test_what_was_deleted_leaves_the_table(dataset):
    fill(dataset)
    dataset.compact()
    dataset.delete(KEYS[3])
    assert dataset.compact().media == 5
    assert rows_of(dataset, "snapshot") == rows_of(dataset, "segments")


def test_only_the_named_media_files_and_settings_are_taken(dataset):
    fill(dataset)
    fill(dataset, settings_digest="other")
    snapshot = dataset.compact(keys=[*KEYS[:2], "never seen.mp4"], settings_digest="other")
    table = read_embeddings(dataset, source="snapshot")
    assert snapshot.media == 2
    assert set(table["media"].to_pylist()) == set(KEYS[:2])
    assert set(table["settings_digest"].to_pylist()) == {"other"}


def test_a_file_holds_one_space_only_and_the_reader_refuses_to_mix(dataset):
    fill(dataset, KEYS[:3], model_name="signal-2")
    fill(dataset, KEYS[3:])
    snapshot = dataset.compact()
    assert snapshot.spaces == ["marengo3.0-8", "signal-2-8"]
    with pytest.raises(DatasetError, match=r"2 vector spaces \(marengo3\.0-8, signal-2-8\)"):
        read_embeddings(dataset, source="snapshot")
    assert len(read_embeddings(dataset, source="snapshot", space="signal-2-8")) == 27


def test_a_snapshot_can_be_rolled_back_to_and_built_upon(dataset):
    fill(dataset, KEYS[:1])
    first = dataset.compact()
    fill(dataset, KEYS[1:2])
    dataset.compact()
    assert dataset.rollback(first.snapshot_id) == first
    assert set(read_embeddings(dataset, source="snapshot")["media"].to_pylist()) == {KEYS[0]}
    assert dataset.compact().media == 2
    with pytest.raises(DatasetError, match="no snapshot 'gone'"):
        dataset.rollback("gone")


def test_a_source_that_is_deleted_while_the_table_is_built_is_left_out(dataset, monkeypatch):
    fill(dataset)
    listed = compaction._live_sources

    def list_then_delete(*args):
        live = listed(*args)
        dataset.delete(KEYS[2])
        return live

    monkeypatch.setattr(compaction, "_live_sources", list_then_delete)
    assert compact(dataset).media == 5
    monkeypatch.undo()
    assert compact(dataset).media == 5


def test_a_damaged_manifest_is_named(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    fill(dataset)
    dataset.compact()
    (tmp_path / "embeddings_table" / "manifest.json").write_text('{"files": [')
    with pytest.raises(DatasetError, match=r"manifest\.json is no readable manifest"):
        read_embeddings(dataset)


sizes = st.integers(1, 60)
worlds = st.dictionaries(
    st.tuples(st.sampled_from(["m-8", "s-8"]), st.integers(0, 30)), st.tuples(sizes, st.integers(0, 2)), max_size=30
)


def sources_of(world):
    return [
        Source(f"{space}/{number}", f"v{version}", f"{number:02}", DIGEST, space, size)
        for (space, number), (size, version) in world.items()
    ]


def execute(plan, number):
    """Pretends to write a plan's outputs: what the next compaction will find."""
    files, sources = list(plan.kept), []
    for index, output in enumerate(plan.outputs):
        path = f"file-{number}-{index}"
        size = sum(source.size_bytes for source in output)
        first, last = output[0].media, output[-1].media
        files.append(SnapshotFile(path, output[0].space, 1, len(output), size, "", first, last))
        sources += [Source(**{**vars(source), "file": path}) for source in output]
    return files, sources


@settings(max_examples=200, deadline=None)
@given(st.lists(worlds, min_size=1, max_size=4), st.integers(20, 200))
def test_after_any_changes_each_source_is_in_the_table_once_and_as_it_is_now(history, target):
    files, sources = [], []
    for number, world in enumerate(history):
        live = sources_of(world)
        plan = plan_compaction(files, sources, live, target)
        kept = {file.path for file in plan.kept}
        held = [source for source in sources if source.file in kept]
        new_files, new_sources = execute(plan, number)
        files, sources = new_files, held + new_sources
        assert sorted((s.path, s.version) for s in sources) == sorted((s.path, s.version) for s in live)
        for output in plan.outputs:
            assert len({source.space for source in output}) == 1
            assert [source.media for source in output] == sorted(source.media for source in output)
            # A file exceeds the target by less than its last source.
            assert sum(source.size_bytes for source in output) < target + 60
        again = plan_compaction(files, sources, live, target)
        assert not again.changed or len(again.outputs) < len(files)


@given(worlds, st.integers(20, 200))
def test_a_plan_does_not_write_what_is_large_and_unchanged(world, target):
    files, sources = execute(plan_compaction([], [], sources_of(world), target), 0)
    added = Source("m-8/new", "v0", "99", DIGEST, "m-8", 1)
    plan = plan_compaction(files, sources, [*sources_of(world), added], target)
    assert {file.path for file in files if file.size_bytes >= target / 2} <= {file.path for file in plan.kept}
    written = sum(source.size_bytes for output in plan.outputs for source in output)
    small = sum(file.size_bytes for file in files if file.size_bytes < target / 2 and file.space == "m-8")
    assert written <= small + 1


def test_a_table_takes_each_media_file_under_the_settings_that_are_named_for_it(dataset):
    for digest in ("old", "new"):
        fill(dataset, KEYS[:3], settings_digest=digest)
    dataset.compact(keys={KEYS[0]: "old", KEYS[1]: "new"})
    table = read_embeddings(dataset, source="snapshot", columns=["media", "settings_digest"])
    pairs = set(zip(table["media"].to_pylist(), table["settings_digest"].to_pylist(), strict=True))
    assert pairs == {(KEYS[0], "old"), (KEYS[1], "new")}


def test_the_documented_key_is_unique_in_the_table_although_copies_share_their_segment_ids(dataset):
    fill(dataset, KEYS[:2])
    fill(dataset, KEYS[:2], settings_digest="other")
    dataset.copy_media(KEYS[0], "copy.mp4", "s3://library/copy.mp4", DIGEST)
    dataset.write(make_segments("repeats.mp4", start_sec=np.zeros(9), end_sec=np.ones(9)))
    dataset.compact()
    assert KEY_COLUMNS == ("media", "segment_id")
    table = read_embeddings(dataset, source="snapshot")
    keys = list(zip(*(table[name].to_pylist() for name in KEY_COLUMNS), strict=True))
    assert len(set(keys)) == len(keys) == 6 * 9
    assert len(set(table["segment_id"].to_pylist())) == 5 * 9


def test_a_file_of_another_program_does_not_stop_the_table_of_named_media_files(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    long = "x" * 400
    fill(dataset, [*KEYS[:2], long])
    folder = tmp_path / "segments" / "space=marengo3.0-8" / f"settings={DIGEST}"
    (folder / "foreign.parquet").write_bytes(b"not ours")
    assert dataset.compact(keys=[KEYS[0], long]).media == 2
    with pytest.raises(DatasetError, match=r"foreign\.parquet is damaged"):
        dataset.compact()


def test_a_damaged_page_is_found_before_it_goes_into_the_table(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    fill(dataset, KEYS[:2], clips=50, dimension=64)
    path = Path(next(iter(dataset.segment_files())).uri)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=f"{path.name} is damaged"):
        dataset.compact()
    assert dataset.snapshot() is None
