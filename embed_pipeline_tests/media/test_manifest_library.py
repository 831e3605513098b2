from __future__ import annotations

import hashlib
import json
import traceback
from pathlib import Path

import pytest

from embed_pipeline.errors import ConfigurationError, MediaError
from embed_pipeline.media import MediaLibrary
from embed_pipeline_tests.media.http_server import serve_files


@pytest.fixture
def server():
    with serve_files() as served:
        yield served


@pytest.fixture
def library(tmp_path):
    """Makes a library of a manifest's text."""

    def make(text: str, name: str = "list.txt", **options) -> MediaLibrary:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return MediaLibrary(tmp_path / name, cache=tmp_path / "cache.sqlite", **options)

    return make


def test_a_list_of_urls_is_a_library_and_listing_it_asks_no_server(library):
    listing = library(
        "\ufeff# our films\n"
        "https://cdn.example.com/films/A%20Talk.mp4?token=s3cret\n"
        "\n"
        "  HTTPS://user:pw@CDN.example.com:8443/films/K%C3%BCste%2C%20Abend.MP4#t=3  \n"
        "http://example.com/song.mp3\n"
        "http://example.com/page.html\n"
    ).list()
    assert [(file.key, file.uri, file.media_type, file.size) for file in listing.files] == [
        ("cdn.example.com/films/A Talk.mp4", "https://cdn.example.com/films/A%20Talk.mp4", "video", None),
        (
            "cdn.example.com:8443/films/Küste%2C Abend.MP4",
            "https://cdn.example.com:8443/films/K%C3%BCste%2C%20Abend.MP4",
            "video",
            None,
        ),
        ("example.com/song.mp3", "http://example.com/song.mp3", "audio", None),
    ]
    assert listing.skipped == {"unsupported": 1}
    assert "s3cret" not in repr(listing)
    assert "pw" not in repr(listing)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "url,path,size\nhttp://h/a.mp4?x=1,films/one.mp4,123\nhttp://h/b.mp4,,\n"),
        ("list.csv", 'Path, URL ,size\n"films/one.mp4",http://h/a.mp4?x=1,123\n\n,http://h/b.mp4,\n'),
        (
            "list.jsonl",
            '{"url": "http://h/a.mp4?x=1", "path": "films/one.mp4", "size": 123}\n\n"http://h/b.mp4"\n',
        ),
    ],
)
def test_columns_give_a_path_and_a_size(library, name, text):
    one, other = library(text, name).list().files
    assert (one.path, one.size, one.uri) == ("films/one.mp4", 123, "http://h/a.mp4")
    assert (other.path, other.size) == ("h/b.mp4", None)


def test_a_csv_without_a_header_is_a_column_of_urls(library):
    assert [file.path for file in library("http://h/a.mp4\nhttp://h/b.mp4\n", "list.csv").list().files] == [
        "h/a.mp4",
        "h/b.mp4",
    ]


def test_lines_that_are_no_urls_are_reported_by_number_and_without_their_text(library):
    lines = [
        "not a url s3cret",
        "ftp://h/s3cret.mp4",
        "http:///s3cret.mp4",
        "http://h:port/s3cret.mp4",
        "http://[s3cret/a.mp4",
    ]
    lines += ["http://h/../s3cret.mp4", "http://h/good.mp4"]
    listing = library("\n".join(lines)).list()
    assert [file.path for file in listing.files] == ["h/good.mp4"]
    assert listing.skipped == {"invalid": 6}
    assert [problem.split(" of ")[0] for problem in listing.problems] == [f"Line {number}" for number in range(1, 7)]
    assert "s3cret" not in repr(listing)


def test_broken_json_lines_are_reported_and_the_others_go_on(library):
    listing = library('{"url": \n[1]\n{"size": 3}\n{"url": 5}\n"http://h/a.mp4"\n', "list.jsonl").list()
    assert [file.path for file in listing.files] == ["h/a.mp4"]
    assert listing.skipped == {"invalid": 4}


def test_the_same_url_twice_is_one_file_and_two_urls_for_one_path_are_a_problem(library):
    listing = library("http://h/a.mp4?v=1\nhttp://h/a.mp4?v=1\nhttp://h/a.mp4?v=2\n").list()
    assert len(listing.files) == 1
    assert listing.skipped == {"invalid": 1}
    assert "Line 3" in listing.problems[0]
    assert "has the path of line 1" in listing.problems[0]


def test_files_are_probed_and_read_through_their_secret_address(library, server, sample_library):
    name = "Reisen/Küste, Abend.mp4"
    server.files[name] = content = (sample_library / name).read_bytes()
    server.secret = "sig=a%2Fb%2Bc%3D&e=1"
    media = library(f"{server.url}/Reisen/K%C3%BCste%2C%20Abend.mp4?{server.secret}\n")
    (file,) = media.list().files
    assert media.probe(file).duration_sec == pytest.approx(22, abs=0.2)
    with media.open(file) as stream:
        assert stream.read() == content
    assert media.size(file) == len(content)
    assert media.signed_url(file).endswith(server.secret)
    assert media.local_path(file) is None
    assert "sig" not in repr(media.file(file.key))


def test_only_a_part_of_a_long_recording_is_fetched_to_learn_its_length(library, server, sample_library):
    server.files["long.mp4"] = content = (sample_library / "lecture-twelve-minutes.mp4").read_bytes()
    media = library(f"{server.url}/long.mp4")
    assert media.probe(media.list().files[0]).duration_sec == pytest.approx(720, abs=0.5)
    assert server.bytes_sent < len(content) * 0.75


@pytest.mark.parametrize("name", ["lecture-twelve-minutes.mp4", "sound/evening-song.mp3"])
def test_a_server_without_ranges_will_do(library, server, sample_library, name):
    server.ranges = False
    server.files["x.mp4"] = content = (sample_library / name).read_bytes()
    media = library(f"{server.url}/x.mp4")
    (file,) = media.list().files
    assert media.probe(file).duration_sec > 20
    with media.open(file) as stream:
        stream.seek(1000)
        assert stream.read() == content[1000:]


def test_with_an_etag_nothing_is_fetched_for_a_fingerprint(library, server):
    server.files["a.mp4"] = b"content"
    media = library(f"{server.url}/a.mp4")
    (file,) = media.list().files
    etag = hashlib.md5(b"content").hexdigest()
    assert media.fingerprint(file) == hashlib.sha256(f"{etag}:7".encode()).hexdigest()[:32]
    assert media.fingerprint(media.file(file.key)) == media.fingerprint(file)
    assert server.bytes_sent == 0


@pytest.mark.parametrize("dates", [True, False])
def test_without_an_etag_the_bytes_are_fetched_once(library, server, dates):
    server.etags, server.dates = False, dates
    server.files["a.mp4"] = b"content"
    media = library(f"{server.url}/a.mp4")
    (file,) = media.list().files
    for _ in range(3):
        assert media.fingerprint(file) == hashlib.sha256(b"content").hexdigest()[:32]
    assert server.bytes_sent <= 2 * 7, "one look whether ranges work, one reading"
    server.files["a.mp4"] = b"longer content"
    assert media.fingerprint(file) == hashlib.sha256(b"longer content").hexdigest()[:32]


def test_a_tick_asks_no_server_again_until_it_is_time(library, server):
    for number in range(30):
        server.files[f"{number}.mp4"] = bytes([number])
    text = "".join(f"{server.url}/{number}.mp4\n" for number in range(30))
    media = library(text)
    first = media.fingerprints(media.list().files)
    assert len(first) == 30
    asked = len(server.requests)
    assert media.fingerprints(media.list().files) == first
    assert len(server.requests) == asked
    server.files["7.mp4"] = b"changed"
    again = library(text, recheck_seconds=0).fingerprints(media.list().files)
    assert {key for key in first if first[key] != again[key]} == {f"{server.url.removeprefix('http://')}/7.mp4"}


def test_a_version_in_the_manifest_saves_asking(library):
    text = '{"url": "http://127.0.0.1:9/a.mp4", "version": "%s", "size": 5}'
    first, same, other = (
        media.fingerprint(media.list().files[0])
        for media in (library(text % version, "list.jsonl", recheck_seconds=0) for version in ("1", "1", "2"))
    )
    assert first == same != other


@pytest.mark.parametrize("use", ["probe", "fingerprint", "open", "size"])
def test_what_cannot_be_fetched_is_said_without_its_secret(library, server, use):
    server.secret = "sig=s3cret"
    server.files["a.mp4"] = b"x"
    media = library(
        f"{server.url}/a.mp4?sig=s3cretwrong\n{server.url}/gone.mp4?sig=s3cret\nhttp://me:s3cret@127.0.0.1:9/c.mp4?sig=s3cret\n"
    )
    said = []
    for file in media.list().files:
        with pytest.raises(MediaError) as caught:
            getattr(media, use)(file)
        said.append(caught.value.message)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert "cannot be fetched" in said[0]
    assert any("answers 403" in words for words in said)
    assert any("does not have it (404)" in words for words in said)


@pytest.mark.parametrize("use", ["read", "probe", "fingerprint"])
def test_a_server_that_fails_half_way_is_said_without_its_secret(library, server, use, monkeypatch):
    server.secret, server.etags = "sig=s3cret", False
    server.files["a.wav"] = wav_of(4_000_000)
    media = library(f"{server.url}/a.wav?sig=s3cret")
    (file,) = media.list().files
    stream = media.open(file)
    server.failing = True
    if use != "read":
        monkeypatch.setattr(media._store, "open", lambda file: stream)
        monkeypatch.setattr(media._store, "_info", lambda file: {"size": 4_000_000})
    with pytest.raises(MediaError, match="its server answers 500") as caught:
        stream.read() if use == "read" else getattr(media, use)(file)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def wav_of(size: int) -> bytes:
    header = b"RIFF" + (size - 8).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\x01\0\x01\0"
    header += (16000).to_bytes(4, "little") + (32000).to_bytes(4, "little") + b"\x02\0\x10\0data"
    return (header + (size - 44).to_bytes(4, "little")).ljust(size, b"\1")


def test_fingerprints_go_on_past_what_cannot_be_fetched(library, server):
    server.files["a.mp4"] = b"x"
    media = library(f"{server.url}/a.mp4\n{server.url}/gone.mp4\n")
    problems = []
    found = media.fingerprints(media.list().files, on_problem=lambda file, error: problems.append(file.path))
    assert [key.rpartition("/")[2] for key in found] == ["a.mp4"]
    assert [path.rpartition("/")[2] for path in problems] == ["gone.mp4"]


def test_a_file_that_left_the_manifest_is_gone(library, tmp_path):
    media = library("http://h/a.mp4\nhttp://h/b.mp4\n")
    first, _ = media.list().files
    (tmp_path / "list.txt").write_text("http://h/b.mp4\n")
    assert len(media.list().files) == 1
    with pytest.raises(MediaError, match=r"'h/a.mp4' is not in the media library .*list.txt' any more"):
        media.file(first.key)


def test_a_missing_or_unreadable_manifest_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"gone.txt' does not exist\. Set EMBED_MEDIA"):
        MediaLibrary(tmp_path / "gone.txt").list()
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(MediaError, match=r"binary.csv' is not a list of URLs: it is no UTF-8 text"):
        MediaLibrary(tmp_path / "binary.csv").list()


def test_a_manifest_may_itself_be_at_a_secret_address(server, tmp_path):
    server.files["lists/all.jsonl"] = json.dumps("http://h/a.mp4").encode()
    server.secret = "key=s3cret"
    media = MediaLibrary(f"{server.url}/lists/all.jsonl?key=s3cret")
    assert [file.path for file in media.list().files] == ["h/a.mp4"]
    assert media.location == f"{server.url}/lists/all.jsonl"
    late = MediaLibrary(f"{server.url}/lists/all.jsonl?key=s3cret-no-more")
    with pytest.raises(MediaError, match="its server answers 403") as caught:
        late.list()
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_web_page_is_no_library():
    with pytest.raises(ConfigurationError, match=r"Write the URLs into a .txt, .csv or .jsonl file"):
        MediaLibrary("https://example.com/films/")


def test_a_folder_that_is_named_like_a_manifest_is_a_folder(tmp_path: Path):
    (tmp_path / "films.csv").mkdir()
    (tmp_path / "films.csv" / "a.mp4").write_bytes(b"x")
    media = MediaLibrary(tmp_path / "films.csv", settle_seconds=0)
    assert [file.path for file in media.list().files] == ["a.mp4"]
