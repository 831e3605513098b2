from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embed_pipeline.dataset import DamagedFile, EmbeddingDataset, StoredResult
from embed_pipeline.dataset.paths import segment_path
from embed_pipeline.dataset.storage import Storage
from embed_pipeline.errors import DatasetError
from embed_pipeline_tests.dataset.values import CREATED_AT, DIGEST, make_segments

KEYS = ["a.mp4", "b/ü, 1.mp4", "c" * 300 + ".mp3"]
ADDED_KEYS = ("media_uri", "fingerprint", "media_type", "task_id", "created_at")
"""Metadata that files of early releases lack."""


def write_all(dataset, **changes):
    for key in KEYS:
        dataset.write(make_segments(key, **changes))


def file_of(dataset, media, settings_digest=DIGEST):
    [file] = dataset.find(media, settings_digest)
    return file


def rewrite(path, change=lambda table: table, drop_metadata=()):
    """Write a file again with other rows, or as an early release would have written it."""
    table = pq.read_table(path)
    metadata = {
        key: value
        for key, value in table.schema.metadata.items()
        if key.decode().removeprefix("embed_pipeline.") not in drop_metadata
    }
    pq.write_table(change(table.replace_schema_metadata(metadata)), path)


def set_column(name, values):
    return lambda table: table.set_column(
        table.schema.get_field_index(name), table.schema.field(name), [pa.array(values, table.schema.field(name).type)]
    )


def test_each_file_is_one_result_with_everything_that_made_it(dataset):
    write_all(dataset)
    dataset.write(make_segments(KEYS[0], settings_digest="other", clips=7, duration_sec=None))
    results = list(dataset.results())
    assert [(result.media, result.settings_digest, result.rows) for result in results] == [
        (KEYS[0], DIGEST, 9),
        (KEYS[1], DIGEST, 9),
        (KEYS[2], DIGEST, 9),
        (KEYS[0], "other", 15),
    ]
    segments = make_segments(KEYS[1])
    file = file_of(dataset, KEYS[1])
    assert results[1] == StoredResult(
        media=KEYS[1],
        media_uri=segments.media_uri,
        fingerprint=segments.fingerprint,
        media_type="video",
        duration_sec=24.0,
        settings=segments.settings,
        settings_digest=DIGEST,
        model_name="marengo3.0",
        space="marengo3.0-8",
        task_id=segments.task_id,
        rows=9,
        created_at=CREATED_AT,
        path=file.path,
        uri=file.uri,
        size_bytes=file.size_bytes,
        modified=file.modified,
    )
    assert results[3].duration_sec is None


def test_a_file_of_an_early_release_gives_the_same_result(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    write_all(dataset)
    before = list(dataset.results())
    for result in before:
        rewrite(result.uri, drop_metadata=ADDED_KEYS)
    for old, new in zip(dataset.results(), before, strict=True):
        assert dataclasses.replace(old, size_bytes=0, modified=0) == dataclasses.replace(new, size_bytes=0, modified=0)
        assert dataset.check(old.path, deep=True) is None


def test_a_copy_is_a_result_of_its_own_name(dataset):
    dataset.write(make_segments("old.mp4"))
    dataset.copy_media("old.mp4", "new.mp4", "s3://library/new.mp4", DIGEST)
    new, old = dataset.results()
    assert (new.media, new.media_uri, new.task_id) == ("new.mp4", "s3://library/new.mp4", old.task_id)


def test_a_dataset_that_is_empty_has_no_results(dataset):
    assert list(dataset.results()) == []


def test_vectors_are_not_read(tmp_path, monkeypatch):
    dataset = EmbeddingDataset(f"memory://{tmp_path.name}")
    dataset.write(make_segments(clips=500, dimension=512))
    read = []
    cat_file = type(dataset.storage.filesystem).cat_file

    def counted(filesystem, path, start=None, end=None, **options):
        data = cat_file(filesystem, path, start=start, end=end, **options)
        read.append(len(data))
        return data

    monkeypatch.setattr(type(dataset.storage.filesystem), "cat_file", counted)
    [result] = dataset.results()
    assert result.rows == 1001
    assert sum(read) < 20_000 < 1_000_000 < result.size_bytes


def test_a_footer_longer_than_the_first_request_is_read(dataset):
    settings = {"note": "x" * 100_000}
    dataset.write(make_segments(settings=settings))
    [result] = dataset.results()
    assert result.settings == settings
    assert dataset.check("lectures/one.mp4", DIGEST) is None


def cut_off(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("no parquet at all")


def of_another_program(path):
    rewrite(path, lambda table: table.replace_schema_metadata(None))


def without_rows(path):
    rewrite(path, lambda table: table.slice(0, 0))


def footer_of_nonsense(path):
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[-8:-4], "little")
    data[-8 - length : -8] = b"\xff" * length
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (cut_off, "is damaged (it does not end with a Parquet footer)"),
        (empty, "is damaged (it does not end with a Parquet footer)"),
        (text, "is damaged (it does not end with a Parquet footer)"),
        (footer_of_nonsense, "is damaged (Couldn't deserialize thrift"),
        (of_another_program, "is no file of this dataset"),
        (without_rows, "is damaged (it holds not one segment)"),
    ],
)
@pytest.mark.parametrize("key", [0, 2])
def test_a_damaged_file_is_listed_as_one_beside_the_results(tmp_path, damage, error, key):
    dataset = EmbeddingDataset(str(tmp_path))
    write_all(dataset)
    file = file_of(dataset, KEYS[key])
    damage(Path(file.uri))
    results = list(dataset.results())
    [damaged] = [result for result in results if isinstance(result, DamagedFile)]
    # A name that was cut gives no key back.
    assert damaged == DamagedFile(file.path, file.uri, KEYS[key] if key == 0 else None, damaged.error)
    assert damaged.error.startswith(f"{file.uri} {error}")
    assert {result.media for result in results if isinstance(result, StoredResult)} == {*KEYS} - {KEYS[key]}
    assert dataset.check(KEYS[key], DIGEST) == dataset.check(file.path) == damaged.error


def test_a_file_in_the_place_of_another_is_no_result(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    dataset.write(make_segments("a.mp4"))
    source, target = (tmp_path / segment_path(key, "marengo3.0-8", DIGEST) for key in ("a.mp4", "b.mp4"))
    shutil.copy(source, target)
    right, wrong = dataset.results()
    assert right.media == "a.mp4"
    assert wrong.media == "b.mp4"
    assert wrong.error == (
        f"{target} holds the segments of media file 'a.mp4', which belong into {source}. Rename it, or delete it."
    )
    assert dataset.check("b.mp4", DIGEST) == wrong.error


def test_a_file_that_vanishes_meanwhile_is_left_out(dataset):
    write_all(dataset)
    results = dataset.results(concurrency=1)
    first = next(results)
    for key in KEYS:
        dataset.delete(key)
    # One file was read ahead.
    assert len(list(results)) <= 1
    assert first.media == KEYS[0]


def test_a_file_that_is_replaced_after_it_was_listed_is_read_as_it_is_now(dataset):
    dataset.write(make_segments(dimension=512, clips=20))
    [listed] = dataset.segment_files()
    for clips in (40, 2):
        dataset.write(make_segments(dimension=512, clips=clips))
        assert dataset.read_footer(listed).num_rows == 2 * clips + 1


def test_a_store_that_cannot_be_read_is_no_damage(dataset, monkeypatch):
    write_all(dataset)

    def unreachable(*_):
        raise DatasetError("Cannot read: the network is down")

    monkeypatch.setattr(Storage, "read_end", unreachable)
    with pytest.raises(DatasetError, match="network is down"):
        list(dataset.results())
    with pytest.raises(DatasetError, match="network is down"):
        dataset.check(KEYS[0], DIGEST)


def test_results_make_a_frame(dataset):
    write_all(dataset)
    frame = pd.DataFrame(dataset.results())
    assert frame[["media", "rows"]].values.tolist() == [[key, 9] for key in KEYS]


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_file_passes_its_check(dataset, deep):
    plain = make_segments()
    repeated = make_segments("repeated.mp4", start_sec=np.zeros(9), end_sec=np.ones(9))
    uncertain = dataclasses.replace(plain, media="u.mp4", embedding_uncertainty=np.abs(plain.embedding))
    for segments in (plain, repeated, uncertain):
        written = dataset.write(segments)
        assert dataset.check(segments.media, DIGEST, rows=9, deep=deep) is None
        assert dataset.check(written.path, rows=9, deep=deep) is None


def test_a_check_compares_the_rows_that_were_written(dataset):
    written = dataset.write(make_segments())
    assert dataset.check("lectures/one.mp4", DIGEST, rows=12) == (
        f"{written.uri} is damaged (it holds 9 segments, and 12 were written). "
        "Delete it and collect that media file again."
    )


def test_a_file_that_is_absent_is_named(dataset):
    assert dataset.check("no.mp4", DIGEST) == (
        f"The dataset has no file with the segments of media file 'no.mp4' under settings {DIGEST}."
    )
    path = segment_path("no.mp4", "marengo3.0-8", DIGEST)
    for name in (path, "pipeline.json", "../elsewhere.parquet"):
        assert dataset.check(name).endswith("does not exist, or is no file of segments.")


def test_a_file_without_its_middle_is_found_by_its_footer_alone(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    path = Path(dataset.write(make_segments(clips=200)).uri)
    data = path.read_bytes()
    path.write_bytes(data[:100] + data[len(data) // 2 :])
    assert "it is shorter than its footer requires" in dataset.check("lectures/one.mp4", DIGEST)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_one_changed_bit_is_found_by_a_deep_check_and_by_every_reader(tmp_path, part):
    dataset = EmbeddingDataset(str(tmp_path))
    path = Path(dataset.write(make_segments(clips=200, dimension=64)).uri)
    data = bytearray(path.read_bytes())
    data[int(len(data) * part)] ^= 1
    path.write_bytes(data)
    assert dataset.check("lectures/one.mp4", DIGEST) is None
    problem = dataset.check("lectures/one.mp4", DIGEST, deep=True)
    assert problem.startswith(f"{path} is damaged (could not verify page integrity, CRC checksum verification failed")
    with pytest.raises(DatasetError, match="is damaged"):
        dataset.read_media("lectures/one.mp4", DIGEST)
    with pytest.raises(DatasetError, match="is damaged"):
        dataset.compact()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (set_column("task_id", ["one"] * 8 + ["two"]), "its column task_id does not agree with its metadata"),
        (set_column("fingerprint", ["other"] * 9), "its column fingerprint does not agree with its metadata"),
        (set_column("end_sec", [1e9] * 9), "its segment ids do not follow from its columns"),
        (set_column("start_sec", [-1.0] * 9), "start_sec of row 0"),
        (set_column("embedding", [[float("nan")] * 8] * 9), "embedding of row 0 (audio, clip) is not finite"),
    ],
)
def test_contents_that_contradict_each_other_are_found_by_a_deep_check(tmp_path, change, problem):
    dataset = EmbeddingDataset(str(tmp_path))
    rewrite(dataset.write(make_segments()).uri, change)
    assert dataset.check("lectures/one.mp4", DIGEST) is None
    assert problem in dataset.check("lectures/one.mp4", DIGEST, deep=True)
