from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.media.containers import (
    HEAD_BYTES,
    TrackFacts,
    has_asf_encryption,
    is_scrambled,
    matroska_tracks,
    mp3_samples,
    mp4_tracks,
    picture_format,
)
from embed_pipeline_tests.media.awkward import ENCRYPTED, TURNED, Recording

TS = Recording("mpegts", seconds=3)


def mp4_box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return (8 + len(body)).to_bytes(4, "big") + kind + body


def ebml(identifier: str, *content: bytes) -> bytes:
    body = b"".join(content)
    return bytes.fromhex(identifier) + (0x10000000 | len(body)).to_bytes(4, "big") + body


def test_the_tracks_of_an_mp4_tell_encryption_and_rotation():
    assert mp4_tracks(io.BytesIO(ENCRYPTED.content())) == TrackFacts(encrypted=True)
    assert mp4_tracks(io.BytesIO(TURNED.content())) == TrackFacts(rotation=270)
    assert mp4_tracks(io.BytesIO(Recording("mp4", seconds=1).content())) == TrackFacts()


@pytest.mark.parametrize("kind", [b"encv", b"enca", b"drms", b"drmi", b"aavd"])
def test_protected_samples_are_known_by_their_name(kind):
    entry = mp4_box(b"stsd", bytes(7), b"\1", mp4_box(kind, bytes(50)))
    box = mp4_box(b"moov", mp4_box(b"trak", mp4_box(b"mdia", mp4_box(b"minf", mp4_box(b"stbl", entry)))))
    assert mp4_tracks(io.BytesIO(mp4_box(b"ftyp", b"isom") + box)).encrypted


def test_the_tracks_of_a_matroska_file_tell_encryption_and_rotation():
    head = ebml("1A45DFA3", bytes(4))
    tracks = ebml("1654AE6B", ebml("AE", ebml("D7", b"\1"), ebml("6D80", ebml("6240", ebml("5035", b"\0")))))
    assert matroska_tracks(io.BytesIO(head + ebml("18538067", tracks))) == TrackFacts(encrypted=True)
    turned = Recording("matroska", audio=None, seconds=1, rotation=90).content()
    assert matroska_tracks(io.BytesIO(turned)) == TrackFacts(rotation=270)


def test_a_scrambled_transport_stream_is_one_whose_payload_is_mostly_scrambled():
    content = bytearray(TS.content()[:HEAD_BYTES])
    assert not is_scrambled(content)
    for at in range(3, len(content), 188):
        if at > 188 * 4:  # the tables at the beginning are never scrambled
            content[at] |= 0x80
    assert is_scrambled(bytes(content))
    with_times = b"".join(bytes(4) + bytes(content[at : at + 188]) for at in range(0, len(content) - 187, 188))
    assert is_scrambled(with_times), "as cameras write it, with four bytes before each packet"
    assert not is_scrambled(b"\0" * HEAD_BYTES)


def test_an_encrypted_windows_media_file_names_its_scheme_in_the_header():
    asf = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(100)
    assert not has_asf_encryption(asf)
    assert has_asf_encryption(asf + bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"))


def test_the_first_frame_of_an_mp3_counts_samples():
    counted = mp3_samples(io.BytesIO(Recording("mp3", None, "libmp3lame").content()))
    assert counted / 48_000 == pytest.approx(8, abs=0.1)
    half = Recording("mp3", None, "libmp3lame", sound_rate=22_050).content()
    assert mp3_samples(io.BytesIO(half)) / 22_050 == pytest.approx(8, abs=0.2)
    none = Recording("mp3", None, "libmp3lame", options={"write_xing": "0"}).content()
    assert mp3_samples(io.BytesIO(none)) is None


def test_the_count_of_an_mp3_is_found_behind_a_large_cover():
    content = Recording("mp3", None, "libmp3lame", seconds=4, options={"id3v2_version": "0"}).content()
    cover = b"ID3\3\0\0" + bytes((0, 6, 0x0D, 0x20)) + bytes(6 << 14 | 0x0D << 7 | 0x20)
    assert mp3_samples(io.BytesIO(cover + content)) == mp3_samples(io.BytesIO(content))


def test_a_count_by_another_encoder_is_read_as_well():
    frame = bytes.fromhex("fffb9064") + bytes(32) + b"VBRI" + bytes(6) + (1000).to_bytes(4, "big")
    content = frame + (500).to_bytes(4, "big") + bytes(1000)
    assert mp3_samples(io.BytesIO(content)) == 500 * 1152


@given(
    st.binary(max_size=600),
    st.sampled_from([b"", b"\0\0\1\0moov", b"\x1a\x45\xdf\xa3\x80", b"ID3\3\0\0\0\0\0\1", b"\xff\xfb"]),
)
def test_damaged_bytes_give_some_answer(content, head):
    for look in (mp4_tracks, matroska_tracks, mp3_samples):
        look(io.BytesIO(head + content))
    for look in (picture_format, is_scrambled, has_asf_encryption):
        look(head + content)


@pytest.mark.parametrize("kind", [b"trak", b"mdia"])
def test_boxes_within_boxes_without_end_are_left(kind):
    nested = b""
    for _ in range(3000):
        nested = (8 + len(nested)).to_bytes(4, "big") + kind + nested
    assert mp4_tracks(io.BytesIO(mp4_box(b"moov", nested))) == TrackFacts()
