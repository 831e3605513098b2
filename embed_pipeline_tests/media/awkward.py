"""Recordings with something odd about them, made on the spot: no length in the header, joined, encrypted, turned."""

from __future__ import annotations

import tempfile
from bisect import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

SIZE = (480, 360)
FAST = {
    "libx264": {"preset": "ultrafast", "g": "10"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "400k", "g": "10"},
}


def picture(time: float, size: tuple[int, int] = SIZE, turned: bool = False) -> np.ndarray:
    """Return the picture at a time: a bright block that goes to the right, on a ground that changes each second."""
    width, height = size
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = ((int(time) * 53) % 200, (int(time) * 91) % 200, (int(time) * 17) % 200)
    pixels[height // 8 : height // 3, :] //= 2
    left = int(time * width / 12) % width
    pixels[height // 2 :, left : left + width // 6] = (250, 240, 60)
    return np.ascontiguousarray(np.rot90(pixels)) if turned else pixels


def sound(seconds: float, rate: int, loud_sec: float | None = None) -> np.ndarray:
    """Return a rising tone; with `loud_sec` noise for that long and silence after it."""
    time = np.arange(int(seconds * rate)) / rate
    samples = 0.3 * np.sin(2 * np.pi * (220 + 40 * time) * time)
    if loud_sec is not None:
        samples = np.random.default_rng(7).uniform(-0.9, 0.9, len(time)) * (time < loud_sec)
    return (samples * 32767).astype(np.int16)


@dataclass(frozen=True)
class Recording:
    """How a file is made.

    Args:
        container_format: FFmpeg's name of the muxer.
        video: Encoder of the pictures, or None.
        audio: Encoder of the sound, or None.
        seconds: Length.
        start: Time at which the clock begins, in seconds.
        piped: Whether the writer cannot go back to note the length in the header.
        size: Width and height of the pictures.
        rate: Pictures a second.
        sound_rate: Samples a second.
        times: Times of the pictures in seconds, instead of one each 1/rate.
        rotation: Counter-clockwise turn noted for showing the pictures, in degrees.
        loud_sec: Length of the loud beginning; the rest is silent.
        video_options: Options of the encoder.
        audio_options: Options of the encoder.
        options: Options of the muxer.
        quality: Quality instead of a bit rate for the sound.
        turned: Whether the pixels themselves are turned.
    """

    container_format: str
    video: str | None = "libx264"
    audio: str | None = "aac"
    seconds: float = 8.0
    start: float = 0.0
    piped: bool = False
    size: tuple[int, int] = SIZE
    rate: int = 5
    sound_rate: int = 48_000
    times: tuple[float, ...] | None = None
    rotation: int = 0
    loud_sec: float | None = None
    video_options: Mapping[str, str] = field(default_factory=dict)
    audio_options: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    quality: int | None = None
    turned: bool = False

    def content(self) -> bytes:
        """Return the bytes of the file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            with path.open("wb") as pipe:
                self._write(_Pipe(pipe) if self.piped else str(path))
            return path.read_bytes()

    def _write(self, target: object) -> None:
        with av.open(target, "w", self.container_format, options=dict(self.options)) as file:
            film = self._film(file) if self.video else None
            track = self._track(file) if self.audio else None
            pictures = self._pictures() if film is not None else []
            samples = (
                sound(self.seconds, self.sound_rate, self.loud_sec) if track is not None else np.zeros(0, np.int16)
            )
            done = 0
            for time, frame in [*pictures, (self.seconds, None)]:
                while done < len(samples) and done / self.sound_rate <= time:
                    part = av.AudioFrame.from_ndarray(samples[None, done : done + 1024], format="s16", layout="mono")
                    part.sample_rate, part.time_base = self.sound_rate, Fraction(1, self.sound_rate)
                    part.pts = done + round(self.start * self.sound_rate)
                    file.mux(track.encode(part))
                    done += 1024
                if frame is not None:
                    self._mux(file, film.encode(frame))
            if film is not None:
                self._mux(file, film.encode(None))
            if track is not None:
                file.mux(track.encode(None))

    def _mux(self, file: av.container.OutputContainer, packets: list[av.Packet]) -> None:
        for packet in packets:
            if self.times and packet.pts is not None:  # not every encoder keeps how long a picture lasts
                number = bisect(self.times, packet.pts / 1000 - self.start + 1e-6)
                packet.duration = round(((*self.times, self.seconds)[number] - self.times[number - 1]) * 1000)
            file.mux(packet)

    def _film(self, file: av.container.OutputContainer) -> av.VideoStream:
        film = file.add_stream(self.video, rate=self.rate)
        film.width, film.height = self.size[::-1] if self.turned else self.size
        film.pix_fmt, film.codec_context.thread_count = "yuv420p", 1
        film.codec_context.time_base = Fraction(1, 1000 if self.times else self.rate)
        film.options = {**FAST.get(self.video, {}), **self.video_options}
        if self.rotation:
            film.set_display_rotation(self.rotation)
        return film

    def _track(self, file: av.container.OutputContainer) -> av.AudioStream:
        track = file.add_stream(self.audio, rate=self.sound_rate)
        track.layout = "mono"
        track.options = dict(self.audio_options)
        if self.quality is not None:
            track.codec_context.qscale = True
            track.codec_context.global_quality = self.quality * 118  # FF_QP2LAMBDA
        return track

    def _pictures(self) -> list[tuple[float, av.VideoFrame]]:
        frames = []
        times = self.times or [number / self.rate for number in range(int(self.seconds * self.rate))]
        base = Fraction(1, 1000 if self.times else self.rate)
        for time in times:
            frame = av.VideoFrame.from_ndarray(picture(time, self.size, self.turned), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = round((time + self.start) / base), base
            frames.append((time, frame))
        return frames


class _Pipe:
    """A file that can only be written to from front to back."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


@dataclass(frozen=True)
class Awkward:
    """An odd file, and what is right about it.

    Args:
        name: Name of the file, whose ending fits.
        make: Returns the bytes.
        seconds: Length that is to be found.
        measured: Whether that length is not in its header.
        media_type: `video` or `audio`.
        covered: Length that can be decoded, where that is less.
    """

    name: str
    make: Callable[[], bytes]
    seconds: float
    measured: bool = True
    media_type: str = "video"
    covered: float | None = None


def joined(recording: Recording, *others: Recording) -> bytes:
    """Return recordings put one after the other, as `cat` does it."""
    return b"".join(part.content() for part in (recording, *(others or (recording,))))


def beginning(content: bytes, share: float) -> bytes:
    """Return the first part of a file, as an upload that broke off leaves it."""
    return content[: int(len(content) * share)]


_VOB = Recording("vob", "mpeg2video", "ac3", rate=25)
_OGG = Recording("ogg", None, "libopus")
_LOUD = {"video": None, "seconds": 40.0, "loud_sec": 1.0, "sound_rate": 44_100}
_CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}

ENCRYPTED = Recording("mp4", options=_CENC)
TURNED = Recording("mov", rotation=90)

PLAYABLE = (
    Awkward("start.mkv", Recording("matroska", start=20_000).content, 8),
    Awkward("start.webm", Recording("webm", "libvpx", "libopus", start=20_000).content, 8),
    Awkward("start.flv", Recording("flv", start=20_000, piped=True, sound_rate=44_100).content, 8),
    Awkward("start.ogg", Recording("ogg", None, "libopus", start=20_000).content, 8, media_type="audio"),
    Awkward("start.ts", Recording("mpegts", start=20_000).content, 8),
    Awkward("piped.webm", Recording("webm", "libvpx", "libopus", piped=True).content, 8),
    Awkward("piped.weba", Recording("webm", None, "libopus", piped=True).content, 8, media_type="audio"),
    Awkward("piped.mkv", Recording("matroska", None, "libmp3lame", piped=True).content, 8, media_type="audio"),
    Awkward("piped.flac", Recording("flac", None, "flac", piped=True).content, 8, media_type="audio"),
    Awkward("piped.avi", Recording("avi", "mpeg4", "libmp3lame", piped=True).content, 8),
    Awkward("piped.wav", Recording("wav", None, "pcm_s16le", piped=True).content, 8, False, "audio"),
    Awkward("piped.mxf", Recording("mxf", "mpeg2video", "pcm_s16le", piped=True, rate=25).content, 8),
    Awkward("loud first.aac", Recording("adts", audio="aac", quality=1, **_LOUD).content, 40, media_type="audio"),
    Awkward(
        "loud first.mp3",
        Recording("mp3", audio="libmp3lame", quality=2, options={"write_xing": "0"}, **_LOUD).content,
        40,
        media_type="audio",
    ),
    Awkward("plain.ac3", Recording("ac3", None, "ac3").content, 8, media_type="audio"),
    Awkward("plain.amr", Recording("amr", None, "libopencore_amrnb", sound_rate=8000).content, 8, media_type="audio"),
    Awkward("plain.m2v", Recording("mpeg2video", "mpeg2video", None, rate=25).content, 8),
    Awkward("plain.h264", Recording("h264", "libx264", None).content, 8),
    Awkward("joined.ts", lambda: joined(Recording("mpegts"), Recording("mpegts", seconds=5)), 13),
    Awkward("joined.vob", lambda: joined(_VOB), 16),
    Awkward("joined.ogg", lambda: joined(_OGG, Recording("ogg", None, "libopus", seconds=5)), 13, media_type="audio"),
    Awkward("joined.mp3", lambda: joined(Recording("mp3", None, "libmp3lame")), 16, media_type="audio"),
    Awkward(
        "fragments.mp4",
        Recording("mp4", piped=True, options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}).content,
        8,
        False,
    ),
    Awkward("slides.mp4", Recording("mp4", audio=None, seconds=120, times=(0, 30, 60, 90)).content, 120, False),
    Awkward(
        "gap.mkv",
        Recording("matroska", audio=None, times=tuple(t / 5 for t in range(200) if t < 20 or t >= 170)).content,
        40,
        False,
    ),
    Awkward("turned.mov", TURNED.content, 8, False),
    Awkward(
        "cut off.mp4",
        lambda: beginning(Recording("mp4", options={"movflags": "faststart"}).content(), 0.6),
        8,
        False,
        covered=4.8,
    ),
)
