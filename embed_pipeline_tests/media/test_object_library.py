from __future__ import annotations

import hashlib
import time
import urllib.request

import pytest

from embed_pipeline.errors import ConfigurationError, MediaError
from embed_pipeline.media import MediaLibrary
from embed_pipeline.media.samples import Sample, Shot, write_sample

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

AWKWARD_NAMES = ["with, comma.mp4", "100%.mp4", "dots...mp4", "🎬 é.mp4", "a b+c&d=e?f#g.mp4", "x" * 200 + ".mp4"]


@pytest.fixture(scope="module")
def options():
    """A real S3 server on loopback, as fsspec's options."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_MAX_ATTEMPTS", "1")
        server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield {"endpoint_url": f"http://{host}:{port}"}
        server.stop()


@pytest.fixture
def bucket(options, request):
    """An empty bucket, with the filesystem to fill it."""
    store = s3fs.S3FileSystem(**options, use_listings_cache=False)
    name = f"bucket-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}"
    store.mkdir(name)
    return name, store


def test_a_prefix_is_a_library(bucket, options, tmp_path):
    name, store = bucket
    film = tmp_path / "film.mp4"
    write_sample(film, Sample("film.mp4", (Shot("market", "tune", 4, 1),), size=(96, 64)))
    content = film.read_bytes()
    for path in (*AWKWARD_NAMES, "sub/film.MOV"):
        store.pipe(f"{name}/library/{path}", content)
    for path in ("library/film.srt", "library/.hidden.mp4", "library2/other.mp4", "outside.mp4"):
        store.pipe(f"{name}/{path}", b"x")
    # What consoles make of "new folder"; s3fs itself may drop the slash.
    store.call_s3("put_object", Bucket=name, Key="library/folder.mp4/", Body=b"x")

    library = MediaLibrary(f"s3://{name}/library/", storage_options=options)
    listing = library.list()
    assert [file.path for file in listing.files] == sorted([*AWKWARD_NAMES, "sub/film.MOV"])
    for file in listing.files:
        assert library.file(file.key) == file
        assert file.uri == f"s3://{name}/library/{file.path}"
        assert file.size == len(content)
        assert file.version == hashlib.md5(content).hexdigest()
        assert file.modified == pytest.approx(time.time(), abs=60)
        with library.open(file) as stream:
            stream.seek(-10, 2)
            assert stream.read() == content[-10:]
        assert library.local_path(file) is None
        with urllib.request.urlopen(library.signed_url(file, 60)) as answer:
            assert answer.read() == content
    assert library.probe(listing.files[0]).duration_sec == pytest.approx(4, abs=0.1)


def test_the_fingerprint_comes_from_etag_and_size_without_reading(bucket, options, monkeypatch):
    name, store = bucket
    store.pipe(f"{name}/film.mp4", b"first")
    library = MediaLibrary(f"s3://{name}", storage_options=options)
    monkeypatch.setattr(s3fs.S3FileSystem, "open", None)
    first = library.fingerprints(library.list().files)["film.mp4"]
    etag = hashlib.md5(b"first").hexdigest()
    assert first == hashlib.sha256(f"{etag}:5".encode()).hexdigest()[:32]
    assert library.fingerprint(library.file("film.mp4")) == first
    store.pipe(f"{name}/film.mp4", b"other")
    assert library.fingerprints(library.list().files)["film.mp4"] != first


def test_a_listing_shows_what_came_and_went_since_the_last(bucket, options):
    name, store = bucket
    library = MediaLibrary(f"s3://{name}/library", storage_options=options)
    assert library.list().files == (), "a prefix without objects is an empty library"
    store.pipe(f"{name}/library/a.mp4", b"x")
    (file,) = library.list().files
    store.rm(f"{name}/library/a.mp4")
    assert library.list().files == ()
    with pytest.raises(MediaError, match=r"'a.mp4' is not in the media library 's3://.*' any more"):
        library.file("a.mp4")
    with pytest.raises(MediaError, match=r"'a\.mp4'"):
        library.probe(file)


def test_patterns_and_recursion_work_as_in_a_folder(bucket, options):
    name, store = bucket
    for path in ("a.mp4", "raw/b.mp4"):
        store.pipe(f"{name}/library/{path}", b"x")
    for wanted, settings in (["a.mp4"], {"recursive": False}), (["raw/b.mp4"], {"include": ["raw/*"]}):
        library = MediaLibrary(f"s3://{name}/library", storage_options=options, **settings)
        assert [file.path for file in library.list().files] == wanted


def test_names_that_no_folder_could_hold_are_reported(bucket, options):
    name, store = bucket
    for path in ("a//b.mp4", "../c.mp4", "good.mp4"):
        store.call_s3("put_object", Bucket=name, Key=f"library/{path}", Body=b"x")
    listing = MediaLibrary(f"s3://{name}/library", storage_options=options).list()
    assert [file.path for file in listing.files] == ["good.mp4"]
    assert sum(listing.skipped.values()) == 2


def test_a_missing_bucket_is_named(options):
    with pytest.raises(MediaError, match=r"'s3://no-such-bucket/library' does not exist"):
        MediaLibrary("s3://no-such-bucket/library", storage_options=options).list()


def test_one_object_is_no_library(bucket, options):
    name, store = bucket
    store.pipe(f"{name}/film.mp4", b"x")
    with pytest.raises(MediaError, match="is one object"):
        MediaLibrary(f"s3://{name}/film.mp4", storage_options=options).list()


def test_a_store_that_is_not_there_is_named():
    with pytest.raises(MediaError, match=r"'s3://bucket' cannot be read: Could not connect .* Check address and cred"):
        MediaLibrary("s3://bucket", storage_options={"endpoint_url": "http://127.0.0.1:9"}).list()


def test_an_unknown_kind_of_store_is_refused_with_the_kinds_there_are():
    with pytest.raises(ConfigurationError, match=r"'nix://bucket' cannot be read: Protocol not known.*s3://"):
        MediaLibrary("nix://bucket").list()


def test_a_password_in_an_address_is_never_shown():
    library = MediaLibrary("sftp://me:secret@host.example/films")
    assert library.location == "sftp://host.example/films"
    assert "secret" not in repr(library)


def test_a_store_without_etags_is_read_and_cannot_be_fetched_by_others(tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/films/a.mp4", b"content")
    library = MediaLibrary("memory://films", cache=tmp_path / "cache.sqlite")
    (file,) = library.list().files
    assert (file.path, file.version) == ("a.mp4", None)
    assert library.fingerprint(file) == hashlib.sha256(b"content").hexdigest()[:32]
    assert library.signed_url(file) is None
    store.rm("/films", recursive=True)
