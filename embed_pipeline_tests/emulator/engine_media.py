"""Real media for the tests of the engine, made on the spot with real encoders."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 12
WIDTH, HEIGHT = 160, 96
SOUND_RATE = 16_000

SCENES = (
    "testsrc2=size=160x96:rate=12",
    "mandelbrot=size=160x96:rate=12:start_scale=0.3",
    "gradients=size=160x96:rate=12:seed=7:speed=0.05",
    "smptehdbars=size=160x96:rate=12",
    "cellauto=size=160x96:rate=12:rule=110:seed=5",
    "sierpinski=size=160x96:rate=12:seed=3",
    "life=size=160x96:rate=12:seed=4:mold=10:life_color=#C83232:death_color=#204020",
    "zoneplate=size=160x96:rate=12:kx2=80:ky2=120:kt=6",
)


def pictures(scene: str, seconds: float, *, skip: float = 0.0) -> list[np.ndarray]:
    """The frames of a lavfi source, uint8 RGB."""
    with av.open(scene, format="lavfi") as source:
        frames = []
        for number, frame in enumerate(source.decode(video=0)):
            if number >= round((skip + seconds) * RATE):
                break
            if number >= round(skip * RATE):
                frames.append(frame.to_ndarray(format="rgb24"))
        return frames


def film(scenes: list[tuple[str, float]]) -> list[np.ndarray]:
    return [picture for scene, seconds in scenes for picture in pictures(scene, seconds)]


def melody(seconds: float, seed: int = 0) -> np.ndarray:
    """A tune of noisy plucked notes: unlike a single tone, no two stretches of it sound the same."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(round(seconds * SOUND_RATE), np.float32)
    position = 0
    while position < len(sound):
        length = int(rng.uniform(0.12, 0.5) * SOUND_RATE)
        time = np.arange(length) / SOUND_RATE
        pitch = 110 * 2 ** (rng.integers(0, 40) / 12)
        note = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, rng.integers(2, 9)))
        note = note + rng.uniform(0, 0.6) * rng.standard_normal(length)
        note = (note * np.exp(-time * rng.uniform(2, 12)) * 0.2)[: len(sound) - position]
        sound[position : position + len(note)] += note.astype(np.float32)
        position += length
    return sound


def write(
    path: Path,
    frames: list[np.ndarray] | None = None,
    sound: np.ndarray | None = None,
    *,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    captions: list[tuple[float, float, str]] | None = None,
    cover: np.ndarray | None = None,
) -> Path:
    """Write a media file; the ending of its name decides the container."""
    with contextlib.ExitStack() as opened:
        out = opened.enter_context(av.open(path, "w"))
        picture_stream = sound_stream = caption_stream = None
        if frames is not None:
            picture_stream = out.add_stream(video_codec, rate=RATE)
            picture_stream.height, picture_stream.width = frames[0].shape[:2]
            picture_stream.pix_fmt = "yuv420p"
            if video_codec == "libx264":
                picture_stream.options = {"preset": "ultrafast", "crf": "20"}
        if sound is not None:
            sound_stream = out.add_stream(audio_codec, rate=SOUND_RATE, layout="mono")
        if cover is not None:
            cover_stream = out.add_stream("mjpeg", rate=1)
            cover_stream.height, cover_stream.width = cover.shape[:2]
            cover_stream.pix_fmt = "yuvj420p"
            cover_stream.disposition = av.stream.Disposition.attached_pic.value
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(cover), format="rgb24")
            out.mux(cover_stream.encode(frame))
        lines = []
        if captions:
            subtitles = opened.enter_context(av.open(write_captions(path, captions)))
            caption_stream = out.add_stream_from_template(subtitles.streams.subtitles[0])
            lines = [packet for packet in subtitles.demux() if packet.size]
        for packet in _interleaved(picture_stream, frames, sound_stream, sound):
            out.mux(packet)
        for packet in lines:
            packet.stream = caption_stream
            out.mux(packet)
    return path


def write_captions(path: Path, captions: list[tuple[float, float, str]]) -> Path:
    def clock(seconds: float) -> str:
        return f"00:00:{seconds:06.3f}".replace(".", ",")

    subtitles = path.with_name("subtitles-to-embed.srt")
    subtitles.write_text("\n".join(f"1\n{clock(start)} --> {clock(end)}\n{text}\n" for start, end, text in captions))
    return subtitles


def _interleaved(picture_stream, frames, sound_stream, sound):
    size = (sound_stream.codec_context.frame_size or 1024) if sound_stream is not None else 1
    position = 0

    def sound_until(samples):
        nonlocal position
        while sound_stream is not None and position < min(samples, len(sound)):
            block = (sound[position : position + size] * 32767).astype(np.int16)[None, :]
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = SOUND_RATE, position
            frame.time_base = Fraction(1, SOUND_RATE)
            position += block.shape[1]
            yield from sound_stream.encode(frame)

    for number, picture in enumerate(frames or []):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, RATE)
        yield from picture_stream.encode(frame)
        yield from sound_until(number / RATE * SOUND_RATE)
    yield from sound_until(float("inf"))
    for stream in (picture_stream, sound_stream):
        if stream is not None:
            yield from stream.encode(None)
