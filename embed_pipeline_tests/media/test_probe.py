from __future__ import annotations

import errno
import io
import math
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed_pipeline.errors import MediaError, UnplayableMediaError
from embed_pipeline.media import MediaInfo, MediaLibrary
from embed_pipeline.media.probe import probe, probe_stream
from embed_pipeline.media.samples import Sample, Shot, write_sample
from embed_pipeline_tests.media.awkward import ENCRYPTED, PLAYABLE, Recording, beginning

FILM = Sample("film.mp4", (Shot("market", "tune", 5, 1),), size=(96, 64))


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_sample(path, FILM)
    return path


def test_a_video_tells_its_length_its_size_and_that_it_has_sound(film):
    assert probe(film) == MediaInfo(
        duration_sec=pytest.approx(5.0, abs=0.1),
        has_video=True,
        has_audio=True,
        width=96,
        height=64,
        duration_is="header",
        container="mov,mp4,m4a,3gp,3g2,mj2",
        video_codec="h264",
        audio_codec="aac",
        frame_rate=pytest.approx(10),
        sample_rate=16_000,
        channels=1,
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"\0" * 100_000, "not playable"),
        (b"Dear all,\nplease find attached the minutes of our meeting.\n" * 50, "not playable"),
        (b"1\n00:00:01,000 --> 00:00:02,000\nsubtitles\n", "not playable"),
        (bytes(range(256)) * 1000, "not playable"),
    ],
    ids=["empty", "zeros", "text", "subtitles", "bytes"],
)
def test_what_is_no_media_is_said_to_be_unplayable(tmp_path, content, why):
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=f"'film.mp4' is not playable.*{why}|{why}") as caught:
        probe(path)
    assert "film.mp4" in caught.value.message


def test_a_playlist_makes_it_open_no_other_file(tmp_path, film):
    lists = {
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{film.as_uri()}\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile {film.name}\n",
    }
    for name, text in lists.items():
        (film.parent / name).write_text(text)
        with pytest.raises(MediaError, match="not playable"):
            probe(film.parent / name)


def test_a_video_that_lost_its_header_is_unplayable(tmp_path, film):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[: film.stat().st_size // 2])  # what an mp4 holds is told at its end
    with pytest.raises(MediaError, match=r"'cut.mp4' is not playable"):
        probe(cut)


def test_sound_with_a_broken_tail_is_as_long_as_its_header_says_or_what_is_left(tmp_path):
    whole = tmp_path / "whole.wav"
    write_sample(whole, Sample("x.wav", (Shot(None, "tune", 6, 1),)))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(whole.read_bytes()[:-60_000] + b"\xff\x00garbage" * 10)
    assert 3.5 < probe(broken).duration_sec <= 6.0


@pytest.mark.parametrize("file", PLAYABLE, ids=lambda file: file.name)
def test_a_length_is_that_of_the_header_or_measured_and_never_an_estimate(awkward_files, file):
    info = probe(awkward_files / file.name)
    assert info.duration_sec == pytest.approx(file.seconds, abs=0.21)
    assert info.duration_is == ("measured" if file.measured else "header")
    assert info.has_video == (file.media_type == "video")


def test_an_estimate_of_ffmpeg_is_far_off_for_what_is_measured(awkward_files):
    def estimate(name: str) -> float:
        with av.open(str(awkward_files / name)) as container:
            return (container.duration or 0) / av.time_base

    assert estimate("loud first.aac") < 4
    assert estimate("start.mkv") > 20_000
    assert estimate("piped.avi") > 5_000
    assert estimate("joined.ts") < 9


def test_a_clip_that_is_cut_out_of_a_long_recording_is_as_short_as_it_is():
    clip = Recording("matroska", start=100, seconds=1.5).content()
    info = probe_stream(io.BytesIO(clip), "clip.mkv")
    assert info.duration_sec == pytest.approx(1.5, abs=0.1)
    assert info.start_sec == pytest.approx(100, abs=0.1)


def test_a_length_that_does_not_count_the_start_is_told_from_an_end(tmp_path):
    """Some writers of Matroska note the end and others the length; the packets are the same."""
    content = bytearray(Recording("matroska", start=10, seconds=30).content())
    place = content.index(b"\x44\x89\x88") + 3  # the element Duration, eight bytes long
    assert struct.unpack(">d", content[place : place + 8])[0] == pytest.approx(40_000, abs=100)
    content[place : place + 8] = struct.pack(">d", 30_000)
    assert probe_stream(io.BytesIO(content), "x.mkv").duration_sec == pytest.approx(30, abs=0.1)


def test_only_the_end_of_a_recording_with_an_index_is_read_for_its_length(awkward_files):
    content = Recording("matroska", start=500, seconds=60).content()

    class Counted(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            Counted.count += len(data)
            return data

    assert probe_stream(Counted(content), "x.mkv").duration_sec == pytest.approx(60, abs=0.1)
    assert Counted.count < len(content) * 0.8


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("container", ["mov", "matroska"])
def test_width_and_height_are_those_of_the_picture_as_it_is_shown(turn, container):
    content = Recording(container, audio=None, seconds=1, rotation=turn).content()
    info = probe_stream(io.BytesIO(content), "x")
    assert (info.width, info.height) == ((480, 360) if turn % 180 == 0 else (360, 480))
    with av.open(io.BytesIO(content)) as file:
        assert info.rotation == -next(file.decode(video=0)).rotation % 360


def test_encrypted_media_is_refused_in_that_word():
    with pytest.raises(UnplayableMediaError, match=r"'film.mp4' is not playable: it is encrypted"):
        probe_stream(io.BytesIO(ENCRYPTED.content()), "film.mp4")


@pytest.mark.parametrize(
    ("magic", "word"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF89a", "GIF"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"BM\x10\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", "BMP"),
        (b"\0\0\0\x1cftypheic\0\0\0\0", "HEIC"),
    ],
)
def test_a_picture_is_said_to_be_one(magic, word):
    with pytest.raises(UnplayableMediaError, match=rf"it is a picture \({word}\), not audio or video"):
        probe_stream(io.BytesIO(magic.ljust(5000, b"\1")), "film.mp4")


def test_an_upload_that_broke_off_keeps_the_length_of_its_header():
    whole = Recording("mp3", None, "libmp3lame").content()
    for content in (whole, beginning(whole, 0.6)):
        info = probe_stream(io.BytesIO(content), "song.mp3")
        assert info.duration_sec == pytest.approx(8, abs=0.05)
        assert info.duration_is == "header"


def test_a_header_that_claims_years_is_not_believed(tmp_path):
    claims = tmp_path / "claims.mkv"
    write_sample(claims, Sample("x.mkv", FILM.shots, size=FILM.size))
    content = bytearray(claims.read_bytes())
    place = content.index(b"\x44\x89\x88") + 3  # Matroska's element Duration, eight bytes long
    assert struct.unpack(">d", content[place : place + 8])[0] == pytest.approx(5000, abs=100)
    content[place : place + 8] = struct.pack(">d", 1e11)
    claims.write_bytes(content)
    with av.open(str(claims)) as container:
        assert container.duration == pytest.approx(1e8 * av.time_base), "else this test shows nothing"
    assert probe(claims).duration_sec == pytest.approx(5, abs=0.2)


def test_a_stream_of_an_unknown_kind_does_not_count(tmp_path, film):
    content = film.read_bytes()
    unknown = tmp_path / "unknown.mp4"
    unknown.write_bytes(content.replace(b"avc1", b"zzz9").replace(b"avcC", b"zzzC"))
    info = probe(unknown)
    assert (info.has_video, info.has_audio) == (False, True)
    unknown.write_bytes(unknown.read_bytes().replace(b"mp4a", b"zzz8").replace(b"esds", b"zzzD"))
    with pytest.raises(MediaError, match="no video and no audio in it that can be decoded"):
        probe(unknown)


def test_the_cover_of_a_song_is_no_video(tmp_path):
    song = tmp_path / "song.mp3"
    write_sample(song, Sample("song.mp3", (Shot(None, "tune", 4, 1),)))
    covered = tmp_path / "covered.mp3"
    with av.open(str(song)) as source, av.open(str(covered), "w") as target:
        copied = target.add_stream_from_template(source.streams.audio[0])
        cover = target.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
        target.mux(cover.encode(picture.reformat(format="yuvj420p")))
        target.mux(cover.encode(None))
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    with av.open(str(covered)) as container:
        assert len(container.streams.video) == 1, "else this test shows nothing"
    info = probe(covered)
    assert (info.has_video, info.has_audio, info.width) == (False, True, None)
    assert info.duration_sec == pytest.approx(4.0, abs=0.2)


def test_a_name_that_ffmpeg_could_not_take_makes_no_difference(tmp_path, film):
    folder = tmp_path / "library"
    folder.mkdir()
    for name in ("concat:a|b.mp4", "not utf-8 \udcff.mp4", "http:,,x.mp4", "%d %s.mp4"):
        (folder / name).write_bytes(film.read_bytes())
    library = MediaLibrary(folder, settle_seconds=0)
    assert [library.probe(file).duration_sec for file in library.list().files] == [pytest.approx(5, abs=0.1)] * 4


def test_only_the_beginning_and_the_index_of_a_long_file_are_read(sample_library):
    path = sample_library / "lecture-twelve-minutes.mp4"

    class Counted(io.FileIO):
        count = 0

        def read(self, size: int = -1) -> bytes:
            data = super().read(size)
            Counted.count += len(data)
            return data

    with Counted(path) as stream:
        assert probe_stream(stream, "x").duration_sec == pytest.approx(720, abs=0.5)
    assert Counted.count < path.stat().st_size


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.randoms(use_true_random=False))
def test_whatever_a_broken_file_holds_the_answer_is_a_length_or_a_sentence(film, random):
    content = bytearray(film.read_bytes())
    for _ in range(random.choice([1, 10, 300])):
        content[random.randrange(len(content))] = random.randrange(256)
    if random.random() < 0.3:
        del content[random.randrange(len(content)) :]
    try:
        info = probe_stream(io.BytesIO(content), "film.mp4")
    except MediaError:
        return
    assert math.isfinite(info.duration_sec)
    assert info.duration_sec > 0


def test_the_room_is_imported_without_loading_what_decodes():
    program = (
        "import sys, embed_pipeline.media\n"
        "print([m for m in ('av', 'fsspec', 'aiohttp', 'dagster', 'sqlite3', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['sqlite3']")


def test_a_disk_that_fails_says_nothing_about_what_is_in_a_file(film):
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    with pytest.raises(MediaError, match="cannot be read: Input/output error") as raised:
        probe_stream(Failing(film.read_bytes()), "film.mp4")
    assert not isinstance(raised.value, UnplayableMediaError)
