"""Reading a media file once, from front to back, as pictures and sound with honest times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from embed_pipeline.emulator.engine.failure import (
    REQUEST_INVALID,
    SOURCE_UNREACHABLE,
    UNPROCESSABLE,
    MediaFailure,
    too_long,
)
from embed_pipeline.emulator.engine.request import Dynamic, EmbedRequest, EngineLimits, FloatArray

if TYPE_CHECKING:
    from av.audio.resampler import AudioResampler
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

SAMPLE_RATE: Final = 16_000

# Only containers that hold media themselves. Playlists, scripts and session descriptions (hls, dash, concat, sdp, ...)
# would make the decoder open other files and addresses in a stranger's name.
_CONTAINERS: Final = (
    "3g2,3gp,aac,ac3,aiff,amr,ape,asf,au,avi,caf,dv,eac3,f4v,flac,flv,gif,h264,hevc,ivf,m4a,m4v,matroska,mj2,mov,mp2,"
    "mp3,mp4,mpeg,mpegts,mpegvideo,mxf,obu,ogg,opus,rm,tta,voc,w64,wav,webm,wv"
)
# A time that leaps further than this beyond its predecessor and beyond what the header says is a damaged time.
_LEAP_SEC: Final = 30.0
_DRIFT_SEC: Final = 0.2
_STRETCH_SEC: Final = 0.5


@dataclass(frozen=True)
class Picture:
    """One video frame.

    Args:
        time: When it is shown, in seconds from the beginning of the file.
        end: When the next one is due.
        frame: The frame as decoded.
    """

    time: float
    end: float
    frame: VideoFrame


@dataclass(frozen=True)
class Sound:
    """A stretch of sound.

    Args:
        time: When its first sample is heard, in seconds from the beginning of the file.
        samples: float32, mono, 16 kHz, between -1 and 1.
    """

    time: float
    samples: FloatArray

    @property
    def end(self) -> float:
        """When it ends, in seconds."""
        return self.time + len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True)
class Caption:
    """One line of an embedded subtitle stream.

    Args:
        start: When it appears, in seconds from the beginning of the file.
        end: When it vanishes.
        text: What it says, without markup.
    """

    start: float
    end: float
    text: str


class MediaStream:
    """The best video, audio and subtitle streams of one open file; made by `open_media`.

    Attributes:
        has_picture: Whether there is a video stream that is more than cover art.
        decodes_picture: Whether it is read: for what it shows, or to find the scenes.
        has_sound: Whether there is an audio stream.
        has_captions: Whether there is a subtitle stream.
        declared_sec: How long the header says the file lasts, or None.
        start_sec: Where the asked window begins, in seconds.
    """

    def __init__(self, container: InputContainer, request: EmbedRequest, limits: EngineLimits) -> None:
        import av

        self._damage = (av.error.FFmpegError, ValueError, MemoryError)
        self._container = container
        self._limits = limits
        self._end = request.end_sec
        self.start_sec = request.start_sec or 0.0
        wanted = set(request.options)
        # A damaged header can name a codec that nobody has: such a stream cannot be read.
        known = [stream for stream in container.streams if stream.codec_context is not None]
        # The cover of an album is not a film.
        films = [
            stream
            for stream in container.streams.video
            if stream in known and not stream.disposition & av.stream.Disposition.attached_pic
        ]
        sounds = [stream for stream in container.streams.audio if stream in known]
        subtitles = [stream for stream in container.streams.subtitles if stream in known]
        if not films and not sounds:
            raise MediaFailure(UNPROCESSABLE, detail="no video and no audio stream that can be decoded")
        scenes = isinstance(request.segmentation, Dynamic)  # which only the pictures tell
        look = request.media_type == "video" and ("visual" in wanted or scenes)
        listen = bool(wanted & {"audio", "transcription"})
        self._video = films[0] if films and look else None
        self._audio = sounds[0] if sounds and listen else None
        self._captions = subtitles[0] if subtitles and "transcription" in wanted else None
        self.has_picture, self.has_sound, self.has_captions = bool(films), bool(sounds), bool(subtitles)
        if self._video is None and self._audio is None:
            # Something has to tell how long the file lasts.
            self._audio = sounds[0] if sounds else None
            self._video = None if sounds else films[0]
        self.decodes_picture = self._video is not None
        rate = self._video.average_rate if self._video is not None else None
        self._picture_sec = min(10.0, float(1 / rate)) if rate else 0.04
        if self._video is not None:
            self._check_picture_size(self._video.codec_context.width, self._video.codec_context.height)
            self._video.codec_context.options = {"max_pixels": str(limits.pixels)}
            self._video.thread_type = "AUTO"
            self._video.codec_context.thread_count = limits.threads or min(8, os.cpu_count() or 1)
        self._origin = (container.start_time or 0) / 1_000_000
        self.declared_sec = container.duration / 1_000_000 if container.duration and container.duration > 0 else None
        self._check_window()

    def _check_picture_size(self, width: int, height: int) -> None:
        if max(width, height) > self._limits.side_px or width * height > self._limits.pixels:
            raise MediaFailure(UNPROCESSABLE, detail=f"a picture of {width}x{height} is larger than allowed")

    def _check_window(self) -> None:
        if self._end is not None and self._end <= self.start_sec:
            raise MediaFailure(REQUEST_INVALID, detail="the window ends before it begins")
        if self.declared_sec is None:
            return
        if self.start_sec and self.start_sec >= self.declared_sec:
            raise MediaFailure(REQUEST_INVALID, detail="the window begins after the end of the file")
        asked = min(self.declared_sec, self._end or self.declared_sec) - self.start_sec
        if asked > self._limits.duration_sec:
            raise too_long(asked, self._limits.duration_sec)

    def read(self) -> Iterator[Picture | Sound | Caption]:
        """Decode the window, passing over what is damaged.

        Yields:
            Pictures and sound, each in order of time, and captions. Those that begin before the window, or at or after
            its end, are left out.

        Raises:
            MediaFailure: What was decoded lasts longer than allowed.
        """
        import av

        streams = self._streams()
        if self.start_sec > 0:
            self._container.seek(int((self.start_sec + self._origin) * 1_000_000), backward=True)
        clocks = {stream.index: self.start_sec for stream in streams}
        pending = set(clocks)
        sound = _SoundTrack()
        captions = {self._captions.index} if self._captions is not None else set()
        for packet in self._packets(streams):
            if not pending - captions:
                break
            index = packet.stream.index
            if index not in pending:
                continue
            if packet.stream.type == "subtitle":
                yield from self._caption(packet)
                continue
            for frame in self._decode(packet):
                time = self._time(frame, clocks[index])
                if time is None or time < self.start_sec - 1e-6:
                    continue
                if self._is_past(time):
                    pending.discard(index)
                    break
                clocks[index] = time
                if isinstance(frame, av.VideoFrame):
                    yield Picture(time, time + self._picture_sec, frame)
                else:
                    yield from sound.add(frame, time)
        yield from sound.take()

    def _is_past(self, time: float) -> bool:
        if self._end is not None and time >= self._end:
            return True
        if time - self.start_sec > self._limits.duration_sec:
            raise too_long(time - self.start_sec, self._limits.duration_sec)
        return False

    def _streams(self) -> list[Any]:
        return [stream for stream in (self._video, self._audio, self._captions) if stream is not None]

    def _packets(self, streams: list[Any]) -> Iterator[Packet[Any]]:
        """Read packets until the end, or until the rest cannot be read: what came so far can be embedded."""
        import av

        packets = self._container.demux(*streams)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError, ValueError, IndexError):
                return
            yield packet

    def _time(self, frame: object, clock: float) -> float | None:
        known: float | None = getattr(frame, "time", None)
        if known is None:
            return clock
        time = known - self._origin
        if time > clock + _LEAP_SEC and self.declared_sec is not None and time > self.declared_sec + 1.0:
            return None
        return max(time, 0.0)

    def _decode(self, packet: Packet[Any]) -> list[object]:
        try:
            return list(packet.decode())
        except self._damage:
            return []  # One damaged packet; the next key frame mends the picture.

    def _caption(self, packet: Packet[Any]) -> Iterator[Caption]:
        if packet.pts is None or packet.time_base is None:
            return
        start = float(packet.pts * packet.time_base) - self._origin
        length = float((packet.duration or 0) * packet.time_base)
        lines = []
        for shown in self._decode(packet):
            # Subtitles that are pictures have no words.
            words = getattr(shown, "dialogue", None) or getattr(shown, "text", None) or b""
            lines.append(words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words))
        if text := " ".join(line for line in lines if line).strip():
            yield Caption(start, start + length, text)


class _SoundTrack:
    """Resamples decoded audio in stretches of half a second, and keeps its time.

    Samples are counted while the file's own times agree: that is exact, and times in files are rounded.
    """

    def __init__(self) -> None:
        self._resampler: AudioResampler | None = None
        self._anchor = 0.0
        self._given = self._held = 0  # samples since the anchor
        self._blocks: list[FloatArray] = []

    def add(self, frame: object, time: float) -> Iterator[Sound]:
        import av

        if abs(time - self._anchor - (self._given + self._held) / SAMPLE_RATE) > _DRIFT_SEC:
            yield from self.take()
            self._anchor, self._given = time, 0
        for _attempt in range(2):
            try:
                if self._resampler is None:
                    self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
                for part in self._resampler.resample(frame):  # type: ignore[arg-type]
                    self._blocks.append(np.frombuffer(cast("bytes", part.planes[0]), np.float32, part.samples).copy())
                    self._held += part.samples
                break
            except (av.error.FFmpegError, ValueError):
                self._resampler = None  # The format changed on the way: begin anew with it.
        if self._held >= _STRETCH_SEC * SAMPLE_RATE:
            yield from self.take()

    def take(self) -> Iterator[Sound]:
        """What has been held back so far."""
        if self._held:
            samples = np.concatenate(self._blocks)
            # Damaged floating point audio can hold anything, infinities included.
            clean = np.clip(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)
            yield Sound(self._anchor + self._given / SAMPLE_RATE, clean)
            self._given += self._held
            self._held, self._blocks = 0, []


@contextmanager
def open_media(path: Path, request: EmbedRequest, limits: EngineLimits) -> Iterator[MediaStream]:
    """Open a media file for one pass.

    Args:
        path: A local file.
        request: What to embed: its options and media type decide which streams are decoded.
        limits: The largest picture and the longest duration to accept.

    Raises:
        MediaFailure: There is no such file, it is not media, or it is larger or longer than allowed.
    """
    import av

    try:
        # A damaged file makes the decoder talk a lot; what matters of it ends up in the failure.
        av.logging.set_level(None)
        container = av.open(
            path.as_posix() if not path.as_posix().startswith("-") else f"./{path}",
            options={"protocol_whitelist": "file", "format_whitelist": _CONTAINERS},
        )
    except OSError as error:
        if isinstance(error, av.error.FFmpegError) and not isinstance(
            error, av.error.FileNotFoundError | av.error.PermissionError | av.error.IsADirectoryError
        ):
            raise MediaFailure(UNPROCESSABLE, detail=f"not opened: {error.strerror}") from error
        raise MediaFailure(SOURCE_UNREACHABLE, permanent=False, detail=f"not opened: {error.strerror}") from error
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaFailure(UNPROCESSABLE, detail=f"not opened: {error}") from error
    with container:
        yield MediaStream(container, request, limits)
