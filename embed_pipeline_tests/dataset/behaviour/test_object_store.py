from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta

import pytest

from embed_pipeline.dataset import EmbeddingDataset, MediaOutcome, MediaQuery, nearest, publish_lance, read_embeddings
from embed_pipeline.errors import DatasetError
from embed_pipeline_tests.dataset.behaviour.crashing import write_generation
from embed_pipeline_tests.dataset.behaviour.test_torn_writes import check_whole, read_while_killed
from embed_pipeline_tests.dataset.values import DIGEST, make_segments

pytest.importorskip("moto", reason="the S3 server comes with the extra `dev`")
s3fs = pytest.importorskip("s3fs", reason="S3 comes with the extra `s3`")

pytestmark = pytest.mark.server


class FaultyPuts:
    """An S3 server that takes half of a put and then breaks, as often as it is told to."""

    def __init__(self, app):
        self.app = app
        self.faults = 0
        self.broken = 0

    def __call__(self, environ, start_response):
        if self.faults and environ["REQUEST_METHOD"] == "PUT" and ".parquet" in environ["PATH_INFO"]:
            self.faults -= 1
            self.broken += 1
            environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]) // 2)
            start_response("500 Internal Server Error", [("Content-Length", "0"), ("Connection", "close")])
            return []
        return self.app(environ, start_response)


@pytest.fixture(scope="module")
def server():
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = FaultyPuts(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    app.url = f"http://127.0.0.1:{server.server_port}"
    yield app
    server.shutdown()


@pytest.fixture
def dataset(server, monkeypatch, request):
    """A dataset in a bucket of its own; the store is found by the environment, as a person would set it up."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{abs(hash(request.node.name))}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield EmbeddingDataset(f"s3://{bucket}/data set")
    server.faults = 0
    s3fs.S3FileSystem.clear_instance_cache()


def test_everything_works_in_a_bucket(dataset):
    for key in ("a.mp4", "b/ü.mp4", "c" * 400):
        written = dataset.write(make_segments(key))
    assert written.uri.startswith(dataset.root)
    dataset.copy_media("a.mp4", "z.mp4", "s3://library/z.mp4", DIGEST)
    assert sorted(dataset.media(DIGEST)) == ["a.mp4", "b/ü.mp4", "c" * 400, "z.mp4"]
    assert dataset.delete("a.mp4") == 1
    assert dataset.read_media("a.mp4", DIGEST) is None
    first = dataset.compact()
    assert first.media == 3
    assert [uri.startswith(f"{dataset.root}/embeddings_table/data/") for uri in dataset.snapshot_uris()] == [True]
    dataset.write(make_segments("d.mp4", task_id="new"))
    assert dataset.compact().media == 4
    live, table = (read_embeddings(dataset, source=source) for source in ("segments", "snapshot"))
    assert sorted(map(str, live.to_pylist())) == sorted(map(str, table.to_pylist()))
    assert read_embeddings(dataset, media="d.mp4", columns=["task_id"])["task_id"].unique().to_pylist() == ["new"]
    assert nearest(dataset, MediaQuery("d.mp4"), k=1)[0].media != "d.mp4"
    assert dataset.rollback(first.snapshot_id) == dataset.snapshot() == first
    dataset.write_outcomes([MediaOutcome(media="d.mp4", media_uri="s3://library/d.mp4", state="embedded")])
    assert dataset.read_outcomes()["state"].to_pylist() == ["embedded"]
    assert dataset.sweep() == []
    dataset.storage.put("embeddings_table/data/space=marengo3.0-8/never-finished.parquet", b"half")
    later = datetime.now(UTC) + timedelta(days=2)
    assert dataset.sweep(now=later) == ["embeddings_table/data/space=marengo3.0-8/never-finished.parquet"]


def test_results_are_listed_from_footers_and_checked(dataset):
    for key in ("a.mp4", "c" * 400):
        dataset.write(make_segments(key, clips=300, dimension=64))
    dataset.storage.put(dataset.find("a.mp4", DIGEST)[0].path.replace("a.mp4", "b.mp4"), b"no parquet" * 10_000)
    first, damaged, last = dataset.results()
    assert (first.media, first.rows, first.task_id) == ("a.mp4", 601, "task-a.mp4")
    assert first.uri == dataset.find("a.mp4", DIGEST)[0].uri
    assert (last.media, last.modified is not None) == ("c" * 400, True)
    assert damaged.error.startswith(f"{damaged.uri} is damaged (it does not end with a Parquet footer). Delete it")
    assert dataset.check(first.path, rows=601, deep=True) is dataset.check("c" * 400, DIGEST) is None
    [listed] = dataset.find("a.mp4", DIGEST)
    for clips in (900, 200):
        dataset.write(make_segments("a.mp4", clips=clips, dimension=64))
        assert dataset.read_footer(listed).num_rows == 2 * clips + 1


def test_the_table_is_published_to_a_bucket_without_showing_its_secrets(dataset, server):
    pytest.importorskip("lancedb", reason="publishing comes with the extra `lance`")
    secret = "marked-secret"
    options = {"endpoint": server.url, "allow_http": "true", "aws_access_key_id": "k", "aws_secret_access_key": secret}
    uri = f"{dataset.root.partition('/data set')[0]}/lance"
    for seed in (1, 2):
        dataset.write(make_segments(seed=seed))
        dataset.compact()
        [table] = publish_lance(dataset, uri, storage_options=options)
        assert (table.rows, table.added, table.replaced) == (9, 2 - seed, seed - 1)
    with pytest.raises(DatasetError, match=r"Cannot publish to Lance in s3://no-bucket/lance: .*") as caught:
        publish_lance(
            dataset, "s3://no-bucket/lance", storage_options={**options, "endpoint": f"{server.url}/{secret}"}
        )
    assert secret not in str(caught.value)


def test_a_result_in_another_space_takes_the_place_of_the_old_one(dataset):
    dataset.write(make_segments(model_name="signal-2"))
    assert len(dataset.write(make_segments()).replaced) == 1
    assert [file.space for file in dataset.find("lectures/one.mp4", DIGEST)] == ["marengo3.0-8"]


def test_what_another_process_wrote_is_seen_at_once(dataset):
    dataset.write(make_segments("a.mp4"))
    assert list(dataset.media(DIGEST)) == ["a.mp4"]
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    source = dataset.find("a.mp4", DIGEST)[0].uri
    from embed_pipeline.dataset.paths import segment_path

    other.copy(source, f"{dataset.root}/{segment_path('b.mp4', 'marengo3.0-8', DIGEST)}")
    assert sorted(dataset.media(DIGEST)) == ["a.mp4", "b.mp4"]


def test_a_put_that_breaks_half_way_leaves_the_old_result(dataset, server, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    dataset.write(make_segments(seed=1, task_id="old"))
    before = dataset.compact()
    server.faults, server.broken = 100, 0
    with pytest.raises(DatasetError, match=r"Cannot write s3://bucket-\d+/data set/segments/.*one\.mp4"):
        dataset.write(make_segments(seed=2, task_id="new"))
    with pytest.raises(DatasetError, match=r"Cannot write .*media\.parquet"):
        dataset.write_outcomes([MediaOutcome(media="d.mp4", media_uri="s3://library/d.mp4", state="gone")])
    server.faults = 0
    assert server.broken >= 2
    assert dataset.read_media("lectures/one.mp4", DIGEST).task_id == "old"
    dataset.write(make_segments(seed=2, task_id="new"))
    server.faults = 100
    with pytest.raises(DatasetError, match=r"Cannot write .*embeddings_table/data/"):
        dataset.compact()
    server.faults = 0
    assert dataset.snapshot() == before
    assert read_embeddings(dataset, source="snapshot")["task_id"].unique().to_pylist() == ["old"]
    assert dataset.compact().rows == 9
    assert read_embeddings(dataset, source="snapshot")["task_id"].unique().to_pylist() == ["new"]


def test_a_put_that_breaks_once_is_sent_again(dataset, server):
    server.faults, server.broken = 1, 0
    dataset.write(make_segments())
    assert server.broken == 1
    assert len(dataset.read_media("lectures/one.mp4", DIGEST)) == 9


@pytest.mark.slow
def test_a_killed_writer_and_a_breaking_store_never_show_anything_torn(dataset, server, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    write_generation(dataset, 0)
    dataset.compact()
    stop = threading.Event()

    def break_now_and_then():
        while not stop.wait(0.2):
            server.faults = 1

    breaking = threading.Thread(target=break_now_and_then)
    server.broken = 0
    breaking.start()
    try:
        died, reads = read_while_killed(dataset, kills=4, seconds=0.3)
    finally:
        stop.set()
        breaking.join()
        server.faults = 0
    assert died == 4
    assert reads >= 4
    assert server.broken > 0
    for source in ("segments", "snapshot"):
        check_whole(dataset, source)
