from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

from embed_pipeline.errors import ConfigurationError, MediaError
from embed_pipeline.media import MediaLibrary, decode_partition_key, encode_partition_key, printable_path
from embed_pipeline.media.files import MAX_ENDINGS, MAX_LEFT_OUT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="names and links as POSIX has them")

AWKWARD_NAMES = [
    "plain.mp4",
    "Plain.mp4",
    "with, comma.mp4",
    "dots...and more....mp4",
    "100% sure%20.mp4",
    "🎬 映画 é e\u0301.mp4",
    "two\nlines\ttab.mp4",
    "x" * 196 + ".mp4",
    " leading and trailing .mp4",
    "question? hash# [brackets] *.mp4",
    "quote\"s'.mp4",
    os.fsdecode(b"not utf-8 \xff\xfe.mp4"),
]


def put(folder: Path, name: str, content: bytes = b"some bytes", age: float = 60) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def library(folder: Path, **options) -> MediaLibrary:
    return MediaLibrary(folder, cache=folder.parent / "cache.sqlite", **options)


def paths(folder: Path, **options) -> list[str]:
    return [file.path for file in library(folder, **options).list().files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "library"
    made.mkdir()
    return made


def test_every_awkward_name_is_listed_found_opened_and_fingerprinted(folder):
    for name in AWKWARD_NAMES:
        put(folder, f"sub, folder/{name}", os.fsencode(name))
    media = library(folder)
    listing = media.list()
    assert [file.path for file in listing.files] == sorted(f"sub, folder/{name}" for name in AWKWARD_NAMES)
    assert len({file.key for file in listing.files}) == len(AWKWARD_NAMES)
    fingerprints = media.fingerprints(listing.files)
    for file in listing.files:
        assert media.file(file.key) == file
        with media.open(file) as stream:
            assert stream.read() == os.fsencode(file.path.rpartition("/")[2])
        assert fingerprints[file.key] == media.fingerprint(file)
        assert file.uri.isascii()
        assert file.uri == media.local_path(file).as_uri()
        repr(file).encode("utf-8", "surrogateescape")


def test_files_tell_size_time_type_and_address(folder):
    put(folder, "A Talk.MP4", b"12345")
    put(folder, "song.flac")
    talk, song = library(folder).list().files
    assert (talk.key, talk.path, talk.suffix, talk.media_type, talk.size) == (
        "A Talk.MP4",
        "A Talk.MP4",
        ".mp4",
        "video",
        5,
    )
    assert (song.suffix, song.media_type, song.version) == (".flac", "audio", None)
    # Its writing lies a minute back, its arrival does not: what counts is since when the content lies here.
    assert talk.modified == pytest.approx(time.time(), abs=10)
    assert talk.uri == f"file://{folder}/A%20Talk.MP4"


def test_hidden_files_sidecars_and_others_are_not_media(folder):
    put(folder, "film.mp4")
    for name in ("film.srt", "film.vtt", "notes.txt", ".film.mp4.part", "._film.mp4", ".cache/film.mp4", "mp4"):
        put(folder, name)
    listing = library(folder).list()
    assert [file.path for file in listing.files] == ["film.mp4"]
    assert listing.skipped == {"unsupported": 4, "hidden": 3}
    assert listing.settling == frozenset()
    assert listing.endings == {"": 1, ".srt": 1, ".txt": 1, ".vtt": 1}
    assert listing.left_out == (
        ("%2E_film.mp4", "hidden"),
        ("%2Ecache", "hidden"),
        ("%2Efilm.mp4.part", "hidden"),
        *((name, "unsupported") for name in ("film.srt", "film.vtt", "mp4", "notes.txt")),
    )


def test_what_is_left_out_is_named_for_each_reason_however_much_there_is_of_another(folder):
    for number in range(MAX_LEFT_OUT + 10):
        put(folder, f"notes-{number:03}.pages")
    put(folder, "fresh.mp4", age=1)
    (folder / "nowhere.mp4").symlink_to("missing.mp4")
    listing = library(folder).list()
    assert listing.skipped == {"unsupported": MAX_LEFT_OUT + 10, "settling": 1, "link": 1}
    assert listing.endings == {".pages": MAX_LEFT_OUT + 10}
    assert len(listing.left_out) == MAX_LEFT_OUT + 2
    assert {("fresh.mp4", "settling"), ("nowhere.mp4", "link")} <= set(listing.left_out)


def test_endings_that_are_rare_are_not_told(folder):
    for number in range(MAX_ENDINGS + 5):
        put(folder, f"x.e{number}")
    put(folder, "y.e3")
    endings = library(folder).list().endings
    assert len(endings) == MAX_ENDINGS
    assert next(iter(endings.items())) == (".e3", 2)


@pytest.mark.parametrize(
    "ending", ["m4b", "mka", "weba", "amr", "caf", "mp2", "m2v", "f4v", "asf", "ac3", "au", "wv", "3ga"]
)
def test_endings_of_all_that_can_be_decoded_are_media(folder, ending):
    put(folder, f"a.{ending.upper()}")
    assert paths(folder) == [f"a.{ending.upper()}"]


def test_a_name_that_is_not_utf_8_can_be_written_everywhere(folder):
    path = os.fsdecode(b"M\xfcller/film \xff.mp4")
    put(folder, path)
    media = library(folder)
    listing = media.list()
    (file,) = listing.files
    assert file.path == path
    assert decode_partition_key(file.key) == path
    assert media.file(file.key) == file
    assert file.uri == f"file://{folder}/M%FCller/film%20%FF.mp4"
    assert os.fsdecode(unquote_to_bytes(urlsplit(file.uri).path)) == os.fspath(media.local_path(file))
    assert printable_path(file.path) == "M%FCller/film %FF.mp4"
    json.dumps([file.key, file.uri, printable_path(path)], ensure_ascii=False).encode("utf-8")
    assert media.fingerprints(listing.files) == {file.key: media.fingerprint(file)}
    assert media.fingerprints(listing.files) == media.fingerprints(listing.files), "from the SQLite cache"
    with pytest.raises(MediaError, match="not playable") as raised:
        media.probe(file)
    raised.value.message.encode("utf-8")
    put(folder, os.fsdecode(b"not media \xff.t\xfft"))
    media.list().left_out[0].path.encode("utf-8")
    assert list(media.list().endings) == [".t%ED%B3%BFt"]


def test_a_file_that_was_just_written_waits_for_the_next_listing(folder):
    put(folder, "old.mp4", age=60)
    put(folder, "new.mp4", age=1)
    listing = library(folder, settle_seconds=5).list()
    assert [file.path for file in listing.files] == ["old.mp4"]
    assert listing.skipped == {"settling": 1}
    assert listing.settling == {"new.mp4"}, "it has not vanished"
    assert len(library(folder, settle_seconds=5).list(now=time.time() + 10).files) == 2


def test_a_clock_that_is_ahead_does_not_hide_a_file_for_ever(folder):
    put(folder, "from the future.mp4", age=-86400)
    assert paths(folder) == ["from the future.mp4"]


def test_patterns_choose_files(folder):
    for name in ("a.mp4", "interviews/b.mp4", "interviews/raw/c.mp4", "d.mkv"):
        put(folder, name)
    assert paths(folder, include=["interviews/*"]) == ["interviews/b.mp4", "interviews/raw/c.mp4"]
    assert paths(folder, include=["interviews/*", "*.mkv"], exclude=["*/raw/*"]) == ["d.mkv", "interviews/b.mp4"]
    assert paths(folder, recursive=False) == ["a.mp4", "d.mkv"]
    assert paths(folder, extensions=[".MKV"]) == ["d.mkv"]
    assert library(folder, include=["interviews/*"]).list().skipped == {"excluded": 2}


@pytest.mark.parametrize(
    "options", [{"include": "*.mp4"}, {"exclude": "*.mp4"}, {"extensions": "mp4"}, {"extensions": ["mp4"]}]
)
def test_a_setting_that_means_something_else_is_refused(folder, options):
    with pytest.raises(ConfigurationError, match=r"extensions must begin|must be a list"):
        library(folder, **options)


def test_an_empty_folder_is_an_empty_library(folder):
    assert library(folder).list().files == ()


def test_a_missing_folder_is_named_with_what_to_do(tmp_path):
    with pytest.raises(MediaError, match=r"gone' does not exist\. Set EMBED_MEDIA"):
        library(tmp_path / "gone").list()


def test_a_file_is_no_library(tmp_path):
    with pytest.raises(MediaError, match=r"film.mp4' is not a folder\. Set EMBED_MEDIA"):
        library(put(tmp_path, "film.mp4")).list()


def test_no_location_is_refused():
    with pytest.raises(ConfigurationError, match="Set EMBED_MEDIA"):
        MediaLibrary("")


@pytest.fixture
def powerless(tmp_path_factory):
    """A folder, and a user who is not the superuser, to whom permissions mean something."""
    if os.geteuid() != 0:
        yield tmp_path_factory.mktemp("powerless")
        return
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders let nobody else through
        Path(made).chmod(0o777)
        os.seteuid(65534)
        try:
            yield Path(made)
        finally:
            os.seteuid(0)


def test_an_unreadable_folder_is_named(powerless):
    folder = powerless / "library"
    folder.mkdir(mode=0)
    with pytest.raises(MediaError, match=r"library' cannot be read: Permission denied\. .*EMBED_MEDIA"):
        library(folder).list()
    folder.chmod(0o700)


def test_an_unreadable_folder_within_the_library_is_reported_and_the_rest_goes_on(powerless):
    put(powerless, "film.mp4")
    put(powerless, "locked/film.mp4")
    (powerless / "locked").chmod(0)
    listing = library(powerless).list()
    (powerless / "locked").chmod(0o700)
    assert [file.path for file in listing.files] == ["film.mp4"]
    assert listing.skipped == {"unreadable": 1}
    assert listing.problems == ("The folder 'locked' cannot be read: Permission denied.",)


def test_an_unreadable_file_is_named(powerless):
    put(powerless, "film.mp4").chmod(0)
    media = library(powerless)
    (file,) = media.list().files
    for use in (media.open, media.fingerprint, media.probe):
        with pytest.raises(MediaError, match=r"'film.mp4' cannot be read: Permission denied"):
            use(file)


def test_a_link_to_a_file_within_the_library_is_followed_and_one_that_leads_out_is_reported(folder, tmp_path):
    put(folder, "film.mp4")
    outside = put(tmp_path, "secret.mp4")
    (folder / "inside.mp4").symlink_to("film.mp4")
    (folder / "outside.mp4").symlink_to(outside)
    (folder / "nowhere.mp4").symlink_to("missing.mp4")
    (folder / "itself.mp4").symlink_to("itself.mp4")
    listing = library(folder).list()
    assert [file.path for file in listing.files] == ["film.mp4", "inside.mp4"]
    assert listing.skipped["link"] == 2
    assert "'outside.mp4' is a link that leads out of the library." in listing.problems
    assert "'nowhere.mp4' is a link that leads nowhere." in listing.problems
    assert any("itself.mp4" in problem for problem in listing.problems)
    with pytest.raises(MediaError, match="not in the media library"):
        library(folder).file("outside.mp4")
    assert "outside.mp4" in paths(folder, follow_links=True)


def test_links_between_folders_do_not_go_round_in_circles(folder):
    put(folder, "a/film.mp4")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b").symlink_to("a")
    assert paths(folder) == ["a/film.mp4"]
    assert paths(folder, follow_links=True) == ["a/film.mp4", "b/film.mp4"]


def test_a_named_pipe_is_left_alone(folder):
    os.mkfifo(folder / "pipe.mp4")
    listing = library(folder).list()
    assert listing.files == ()
    assert listing.problems == ("'pipe.mp4' is not a regular file.",)


@pytest.mark.parametrize(
    "path", ["../outside.mp4", "sub/../../outside.mp4", "/etc/passwd", "sub//film.mp4", "sub", "none.mp4"]
)
def test_a_key_finds_nothing_outside_the_library_and_nothing_that_is_gone(folder, path):
    put(folder, "sub/film.mp4")
    put(folder.parent, "outside.mp4")
    with pytest.raises(MediaError, match="not in the media library"):
        library(folder).file(encode_partition_key(path))


def test_a_file_that_went_away_is_said_to_be_gone(folder):
    path = put(folder, "film.mp4")
    media = library(folder)
    (file,) = media.list().files
    path.unlink()
    for use in (media.open, media.fingerprint, media.probe):
        with pytest.raises(MediaError, match=r"'film.mp4' is not in the media library .* any more"):
            use(file)


def test_locations_may_be_written_as_a_path_or_a_file_url(folder):
    put(folder, "a b.mp4")
    for location in (str(folder), f"{folder}/", folder.as_uri(), str(folder / ".." / "library")):
        (file,) = MediaLibrary(location).list().files
        assert file.uri == f"file://{folder}/a%20b.mp4"
    assert MediaLibrary(folder).location == str(folder)


def test_a_local_library_has_no_addresses_that_others_could_fetch(folder):
    put(folder, "film.mp4")
    (file,) = library(folder).list().files
    assert library(folder).signed_url(file) is None
    assert library(folder).size(file) == 10


def test_a_file_that_is_being_written_is_named_though_it_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "fresh, one.mp4").write_bytes(b"x")

    listing = MediaLibrary(tmp_path, settle_seconds=30).list()

    assert listing.files == ()
    assert listing.settling == {"fresh%2C one.mp4"}
