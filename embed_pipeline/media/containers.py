"""Facts in the bytes of a media file that FFmpeg does not pass on: pictures, encryption, rotation, sample counts."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

#: Bytes from the beginning of a file in which the functions that take a `head` look.
HEAD_BYTES: Final = 1 << 16

_MAGIC: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
)
_STILL_BRANDS: Final = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF"}
_BITMAP_HEADERS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})

# Structures of one level, and levels within each other, that are looked at: a hostile file may claim millions.
_MOST_PARTS: Final = 10_000
_DEEPEST: Final = 10


def picture_format(head: bytes) -> str | None:
    """Return the name of the picture format that a file begins with, or None if it begins like no picture.

    Args:
        head: The first bytes of the file.
    """
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    # Two letters alone would be too weak a sign: the size of the second header has few values.
    if head[:2] == b"BM" and len(head) >= 18 and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return "BMP"
    return _STILL_BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None


@dataclass(slots=True)
class TrackFacts:
    """Properties of the tracks of an MP4, QuickTime, Matroska or WebM file.

    Args:
        encrypted: Whether the samples of a track are encrypted.
        rotation: Clockwise turn in degrees (0, 90, 180 or 270) with which the first turned track is to be shown.
    """

    encrypted: bool = False
    rotation: int = 0

    def turn(self, degrees: float) -> None:
        """Note the clockwise turn of a track."""
        if self.rotation == 0 and math.isfinite(degrees):
            self.rotation = round(degrees / 90) * 90 % 360


# `enc?` is Common Encryption, `drm?` FairPlay, `aavd` Audible.
_ENCRYPTED_SAMPLES: Final = frozenset({b"encv", b"enca", b"drmi", b"drms", b"drmt", b"aavd"})
_WAY_TO_SAMPLES: Final = frozenset({b"trak", b"mdia", b"minf", b"stbl"})


def mp4_tracks(stream: BinaryIO) -> TrackFacts:
    """Read the tracks of an MP4 or QuickTime file; a damaged file gives what could be read.

    Args:
        stream: The open file; its position changes.
    """
    facts = TrackFacts()
    for kind, start, end in _boxes(stream, 0, stream.seek(0, os.SEEK_END)):
        if kind == b"moov":
            _read_tracks(stream, start, end, facts, _DEEPEST)
            break
    return facts


def _read_tracks(stream: BinaryIO, start: int, end: int, facts: TrackFacts, levels: int) -> None:
    for kind, body, box_end in _boxes(stream, start, end):
        if kind in _WAY_TO_SAMPLES and levels:
            _read_tracks(stream, body, box_end, facts, levels - 1)
        elif kind == b"tkhd":
            header = _read(stream, body, min(box_end - body, 128))
            at_matrix = 52 if header[:1] == b"\x01" else 40  # version 1 has longer times
            if len(header) >= at_matrix + 8:
                across, down = struct.unpack_from(">ii", header, at_matrix)
                facts.turn(math.degrees(math.atan2(down, across)))
        elif kind == b"stsd":
            facts.encrypted = facts.encrypted or _read(stream, body + 12, 4) in _ENCRYPTED_SAMPLES


def _boxes(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(_MOST_PARTS):
        header = _read(stream, start, 16)
        if end - start < 8 or len(header) < 8:
            return
        size, body = int.from_bytes(header[:4], "big"), start + 8
        if size == 1:
            size, body = int.from_bytes(header[8:16], "big"), start + 16
        box_end = end if size == 0 else min(end, start + size)
        if box_end < body:
            return
        yield header[4:8], body, box_end
        start = box_end


_CLUSTER: Final = 0x1F43B675
_ROLL: Final = 0x7675
_ENCRYPTION: Final = 0x5035
# Segment, Tracks, TrackEntry, Video, Projection, ContentEncodings, ContentEncoding.
_WAY_TO_TRACKS: Final = frozenset({0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x7670, 0x6D80, 0x6240})


def matroska_tracks(stream: BinaryIO) -> TrackFacts:
    """Read the tracks of a Matroska or WebM file; a damaged file gives what could be read.

    Args:
        stream: The open file; its position changes.
    """
    facts = TrackFacts()
    for kind, start, end in _elements(stream, 0, stream.seek(0, os.SEEK_END)):
        if kind == _CLUSTER:
            break  # the tracks are described before the first one
        if kind == _ENCRYPTION:
            facts.encrypted = True
        elif kind == _ROLL and end - start in (4, 8):
            facts.turn(-float(struct.unpack(">f" if end - start == 4 else ">d", _read(stream, start, end - start))[0]))
    return facts


def _elements(stream: BinaryIO, start: int, end: int, levels: int = _DEEPEST) -> Iterator[tuple[int, int, int]]:
    for _ in range(_MOST_PARTS):
        header = _read(stream, start, 12)
        id_length = 9 - header[0].bit_length() if header else 9
        if end - start < 2 or id_length > 4 or len(header) <= id_length:
            return
        size_length = 9 - header[id_length].bit_length()
        body = start + id_length + size_length
        if size_length > 8 or body > end:
            return
        unknown = (1 << 7 * size_length) - 1
        size = int.from_bytes(header[id_length : id_length + size_length], "big") & unknown
        # A live recording does not know the size of its parts: such a part ends with what it is in.
        element_end = end if size == unknown else min(end, body + size)
        kind = int.from_bytes(header[:id_length], "big")
        if kind in _WAY_TO_TRACKS and levels:
            yield from _elements(stream, body, element_end, levels - 1)
        else:
            yield kind, body, element_end
        start = element_end


_ASF_ENCRYPTION: Final = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
)


def has_asf_encryption(head: bytes) -> bool:
    """Return whether the header of an ASF, WMV or WMA file marks its content as encrypted.

    Args:
        head: The first bytes of the file.
    """
    return any(identifier in head for identifier in _ASF_ENCRYPTION)


def is_scrambled(head: bytes) -> bool:
    """Return whether most payload at the beginning of an MPEG transport stream is scrambled.

    Args:
        head: The first bytes of the file.
    """
    for size in (188, 192, 204):
        for start in range(size):
            if head[start : start + 1] == b"\x47" and head[start::size].count(0x47) * size >= 0.9 * (len(head) - start):
                flags = [head[at + 3] for at in range(start, len(head) - 3, size)]
                payload = [flag for flag in flags if flag & 0x10]
                return sum(flag & 0xC0 != 0 for flag in payload) > len(payload) / 2
    return False


def mp3_samples(stream: BinaryIO) -> int | None:
    """Return the number of samples that the first frame of an MP3 file notes (Xing, Info or VBRI), or None.

    Args:
        stream: The open file; its position changes.
    """
    start = 0
    while (tag := _read(stream, start, 10))[:3] == b"ID3":
        start += 10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(tag[6:10])))
    head = _read(stream, start, 4096)
    for at in range(len(head) - 200):
        if head[at] == 0xFF and head[at + 1] & 0xE6 == 0xE2:  # frame sync and layer III
            frames = _frame_count(head[at:])
            return None if frames is None else frames * (1152 if head[at + 1] & 0x08 else 576)
    return None


def _frame_count(frame: bytes) -> int | None:
    mono, mpeg_1 = frame[3] >> 6 == 3, frame[1] & 0x08
    note = 4 + ((17 if mono else 32) if mpeg_1 else (9 if mono else 17))
    frames = 0
    if frame[note : note + 4] in (b"Xing", b"Info"):
        flags, frames = struct.unpack_from(">II", frame, note + 4)
        frames = frames if flags & 1 else 0
    elif frame[36:40] == b"VBRI":
        (frames,) = struct.unpack_from(">I", frame, 50)
    return frames or None


def _read(stream: BinaryIO, start: int, size: int) -> bytes:
    stream.seek(start)
    return stream.read(size)
