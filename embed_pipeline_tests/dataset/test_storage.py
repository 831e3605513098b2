from __future__ import annotations

import logging
import pickle
import threading

import pytest

from embed_pipeline.dataset import EmbeddingDataset, MediaOutcome, MediaQuery, nearest, read_embeddings
from embed_pipeline.dataset.storage import Storage, prefetch
from embed_pipeline.errors import DatasetError
from embed_pipeline_tests.dataset.values import DIGEST, make_segments

SECRET = "hunter2-marked"


@pytest.mark.parametrize(
    "root",
    [
        f"ftp://me:{SECRET}@example.com/data",
        f"simplecache::ftp://me:{SECRET}@example.com/data",
        f"https://{SECRET}@example.com/data",
        f"https://example.com/data?sig={SECRET}",
        f"s3://key:{SECRET}@bucket/prefix",
        f"abfs://container@account.dfs.core.windows.net/data?sv=1&sig={SECRET}",
    ],
)
def test_a_root_with_credentials_is_refused_before_anything_can_show_it(root):
    for make in (EmbeddingDataset, Storage):
        with pytest.raises(DatasetError, match="a password, a token or a query in it") as caught:
            make(root)
        assert SECRET not in str(caught.value)
    with pytest.raises(DatasetError) as caught:
        read_embeddings(root)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "root",
    ["data?x", "/a@b:c/d", "s3://bucket/a", "abfs://container@account.dfs.core.windows.net/a", "sftp://me@host/a"],
)
def test_roots_without_credentials_are_taken(root):
    assert EmbeddingDataset(root).root == root


def test_storage_options_are_never_shown():
    dataset = EmbeddingDataset("memory://options", {"secret": SECRET, "client": {"token": SECRET}})
    for value in (dataset, dataset.storage):
        assert SECRET not in repr(value)


def test_the_errors_of_a_store_are_shown_without_secrets(tmp_path, monkeypatch):
    storage = Storage(f"memory://{tmp_path.name}", {"client_kwargs": {"aws_secret_access_key": SECRET}})

    def refuse(*_, **__):
        raise OSError(f"denied for {SECRET} at https://me:{SECRET}@host/x?X-Amz-Signature={SECRET}")

    monkeypatch.setattr(type(storage.filesystem), "cat_file", refuse)
    with pytest.raises(DatasetError, match=r"Cannot read .*denied for \*\*\* at https://host/x") as caught:
        storage.read("a")
    assert SECRET not in str(caught.value)


def test_no_file_of_the_dataset_holds_the_credentials_of_a_media_uri(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    uri = f"https://me:{SECRET}@example.com/a.mp4?X-Amz-Signature={SECRET}#{SECRET}"
    dataset.write(make_segments("a.mp4", media_uri=uri))
    dataset.copy_media("a.mp4", "b.mp4", uri, DIGEST)
    dataset.compact()
    dataset.write_outcomes(
        [MediaOutcome(media="a.mp4", media_uri=uri, state="failed", error=f"cannot fetch {uri}", task_id="t")]
    )
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    # Compressed pages do not show a word to a search for bytes.
    assert SECRET not in str(dataset.read_outcomes().to_pylist())
    assert SECRET not in str(list(dataset.results()))
    for source in ("segments", "snapshot"):
        assert SECRET not in str(read_embeddings(dataset, source=source).to_pylist())
        assert SECRET not in str(nearest(dataset, MediaQuery("a.mp4"), source=source))


def test_nothing_is_logged_with_a_secret(caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    dataset = EmbeddingDataset(f"memory://{tmp_path.name}", {"token": SECRET})
    dataset.write(make_segments(media_uri=f"https://me:{SECRET}@example.com/a.mp4"))
    with pytest.raises(DatasetError):
        dataset.rollback("gone")
    assert SECRET not in caplog.text


def test_a_folder_is_listed_once_and_sorted(dataset, monkeypatch):
    keys = [f"{number:03}.mp4" for number in range(30)]
    for key in reversed(keys):
        dataset.write(make_segments(key, clips=1))
    listed = []
    for name in ("_listing", "_local_names"):
        do = getattr(Storage, name)

        def look(storage, path, do=do):
            listed.append(path)
            return do(storage, path)

        monkeypatch.setattr(Storage, name, look)
    files = list(dataset.segment_files())
    assert [file.name[:3] for file in files] == [key[:3] for key in keys]
    assert [path for path in listed if path.count("/") == 2] == [f"segments/space=marengo3.0-8/settings={DIGEST}"]
    assert listed.count("segments/space=marengo3.0-8") <= 1


def test_files_on_a_local_disk_are_looked_up_as_they_are_taken(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    for name in "abc":
        storage.put(f"folder/{name}", b"x")
    (tmp_path / "folder" / "subfolder").mkdir()
    (tmp_path / "folder" / "broken").symlink_to(tmp_path / "nothing")
    files = storage.files("folder")
    assert next(files).path == "folder/a"
    storage.remove("folder/b")
    assert [file.path for file in files] == ["folder/c"]
    assert list(storage.files("nowhere")) == list(storage.files("folder/a")) == []


def test_a_listing_and_a_lookup_agree_on_the_version(dataset):
    dataset.write(make_segments())
    [file] = dataset.segment_files()
    assert dataset.file_at(file.path) == file == dataset.find("lectures/one.mp4", DIGEST)[0]
    dataset.write(make_segments(seed=1))
    assert dataset.file_at(file.path).version != file.version


def test_an_open_file_stays_the_same_when_it_is_replaced(dataset):
    storage = dataset.storage
    storage.put("a", b"old")
    with storage.open("a") as source:
        storage.put("a", b"new")
        assert source.read() == b"old"
    assert storage.open("none") is None


def test_the_end_of_a_file_is_read_alone(dataset):
    storage = dataset.storage
    storage.put("a", bytes(range(100)))
    assert storage.read_end("a", 100, 10) == bytes(range(90, 100))
    assert storage.read_end("a", 100, 1000) == bytes(range(100))
    assert storage.read_end("none", 100, 10) is None


def test_prefetch_keeps_the_order_and_stays_a_few_ahead():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = prefetch(lambda number: number * 2, items(), concurrency=4)
    assert [next(results) for _ in range(10)] == [number * 2 for number in range(10)]
    assert len(taken) <= 15
    results.close()
    assert len(taken) <= 15


def test_prefetch_passes_an_error_on_and_ends_its_threads():
    def fail(number):
        if number == 3:
            raise ValueError(number)
        return number

    results = prefetch(fail, range(10), concurrency=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dataset")]


def test_a_dataset_in_a_relative_folder_is_found_where_it_was_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = EmbeddingDataset("data")
    written = dataset.write(make_segments())
    monkeypatch.chdir("/")
    assert written.uri.startswith(str(tmp_path))
    assert pickle.loads(pickle.dumps(dataset)).check("lectures/one.mp4", DIGEST) is None
