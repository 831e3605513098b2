"""Media that nobody should trust: healthy files, damaged in every way that we could think of."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from embed_pipeline_tests.emulator.engine_media import SCENES, film, melody, write


def healthy(folder: Path, seconds: float = 3.0) -> list[Path]:
    """One small healthy file per container and kind of codec."""
    folder.mkdir(exist_ok=True)
    frames, sound = film([(SCENES[1], seconds / 2), (SCENES[4], seconds / 2)]), melody(seconds)
    files = [
        write(folder / "film.mp4", frames, sound),
        write(folder / "film.mkv", frames, sound, audio_codec="libopus", captions=[(0.5, 2.0, "words")]),
        write(folder / "film.webm", frames, sound, video_codec="libvpx", audio_codec="libopus"),
        write(folder / "film.ts", frames, sound),
        write(folder / "film.avi", frames, sound, video_codec="mpeg4", audio_codec="libmp3lame"),
        write(folder / "film.mov", frames, None, video_codec="mpeg4"),
    ]
    for ending, codec in {
        "wav": "pcm_s16le",
        "mp3": "libmp3lame",
        "flac": "flac",
        "m4a": "aac",
        "ogg": "libopus",
    }.items():
        files.append(write(folder / f"sound.{ending}", sound=sound, audio_codec=codec))
    return files


def mutate(content: bytes, other: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Damage a file in one way, drawn at random.

    Args:
        content: The healthy file.
        other: Another healthy file, to splice with.
        rng: Where the draws come from.

    Returns:
        What was done, and the damaged file.
    """
    kinds = [
        _flip_bits, _flip_head, _truncate, _lie_in_numbers, _lie_in_boxes, _zero_a_stretch, _repeat_a_stretch,
        _drop_a_stretch, _noise_a_stretch, _splice,
    ]  # fmt: skip
    kind = kinds[rng.integers(len(kinds))]
    damaged = kind(bytearray(content), rng) if kind is not _splice else _splice(content, other, rng)
    return kind.__name__.strip("_"), bytes(damaged)


def _flip_bits(content: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, len(content), int(2 ** rng.uniform(0, 11))):
        content[place] ^= 1 << int(rng.integers(8))
    return content


def _flip_head(content: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, min(1500, len(content)), int(2 ** rng.uniform(0, 5))):
        content[place] = int(rng.integers(256))
    return content


def _truncate(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content[: int(rng.integers(0, len(content)))]


def _lie_in_numbers(content: bytearray, rng: np.random.Generator) -> bytearray:
    lies = [0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x10000000]
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(0, max(1, min(3000, len(content) - 4))))
        content[place : place + 4] = struct.pack(rng.choice([">I", "<I"]), lies[rng.integers(len(lies))])
    return content


def _lie_in_boxes(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Sizes, times, counts and dimensions within the tables that the named boxes begin."""
    boxes = ["tkhd", "mvhd", "mdhd", "stts", "stsz", "stco", "stsc", "ctts", "avc1", "mp4v", "avcC", "elst"]
    boxes += ["strh", "strf", "avih", "fLaC", "OpusHead", "fmt "]
    matroska = [b"\x16\x54\xae\x6b", b"\x15\x49\xa9\x66"]  # tracks and info
    names = [box.encode() for box in boxes] + matroska
    found = [place for name in names if (place := content.find(name)) >= 0]
    if not found:
        return _lie_in_numbers(content, rng)
    for _ in range(int(rng.integers(1, 4))):
        place = found[rng.integers(len(found))] + 4 + int(rng.integers(0, 90))
        if place + 4 <= len(content):
            content[place : place + 4] = rng.bytes(4) if rng.random() < 0.5 else b"\x7f\xff\xff\xff"
    return content


def _stretch(content: bytearray, rng: np.random.Generator) -> slice:
    start = int(rng.integers(0, len(content)))
    return slice(start, start + int(rng.integers(1, max(2, len(content) // 4))))


def _zero_a_stretch(content: bytearray, rng: np.random.Generator) -> bytearray:
    where = _stretch(content, rng)
    content[where] = bytes(len(content[where]))
    return content


def _noise_a_stretch(content: bytearray, rng: np.random.Generator) -> bytearray:
    where = _stretch(content, rng)
    content[where] = rng.bytes(len(content[where]))
    return content


def _repeat_a_stretch(content: bytearray, rng: np.random.Generator) -> bytearray:
    where = _stretch(content, rng)
    return content[: where.stop] + content[where] * int(rng.integers(1, 8)) + content[where.stop :]


def _drop_a_stretch(content: bytearray, rng: np.random.Generator) -> bytearray:
    del content[_stretch(content, rng)]
    return content


def _splice(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, len(content)))] + other[int(rng.integers(0, len(other))) :]


def bombs(folder: Path) -> Iterator[Path]:
    """Small files that ask for a lot: huge pictures, times far apart, and lists of other files."""
    folder.mkdir(exist_ok=True)
    huge = folder / "huge-picture.mkv"
    with av.open(huge, "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 8000, 8000, "yuv420p"
        frame = av.VideoFrame(8000, 8000, "yuv420p")
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    yield huge
    content = bytearray((huge).read_bytes())
    place = content.find(struct.pack(">H", 8000))
    if place >= 0:  # says 8 pixels, is 8000
        content[place : place + 2] = struct.pack(">H", 8)
        yield _written(folder / "lying-picture.mkv", bytes(content))
    for name, gap in (("hours-apart.mkv", 3 * 3600), ("years-apart.mkv", 10**8)):
        yield _two_pictures(folder / name, gap)
    yield _written(
        folder / "list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    )
    yield _written(folder / "script.mp4", b"ffconcat version 1.0\nfile '/etc/passwd'\n")
    wav = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 0xFFFFFFFF, b"WAVE", b"fmt ", 16, 1, 65535, 1, 131070, 65535, 16,
                      b"data", 0xFFFFFFFF)  # fmt: skip
    yield _written(folder / "many-channels.wav", wav + bytes(500_000))
    yield _written(folder / "zeros.mp4", bytes(1 << 20))


def _two_pictures(path: Path, gap_sec: int) -> Path:
    with av.open(path, "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        packets = []
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 80 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for number, packet in enumerate(packets):
            packet.pts = packet.dts = number * gap_sec * 10
            packet.time_base = Fraction(1, 10)
            out.mux(packet)
    return path


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
