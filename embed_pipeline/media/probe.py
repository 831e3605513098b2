"""Length and content of a media file, known from its header or measured by reading its packets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from embed_pipeline.errors import MediaError, UnplayableMediaError
from embed_pipeline.media import containers
from embed_pipeline.media.files import MediaInfo
from embed_pipeline.media.store import describe_error
from embed_pipeline.media.timeline import Timeline

__all__ = ["FORMATS", "Timeline", "film_and_sound", "probe", "probe_stream"]

#: The containers that hold recorded media, as FFmpeg's `format_whitelist`. Without this list FFmpeg would also take
#: playlists, which make it open whatever other files and addresses they name, and text that looks like one of its many
#: formats.
FORMATS: Final = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,dtshd,dv,eac3,flac,flv,gxf,h264,hevc,ivf,matroska,webm,mov,mp4,m4a,3gp,3g2,"
    "mj2,mp3,mpeg,mpegts,mpegvideo,m4v,mxf,nut,ogg,rm,tta,voc,w64,wav,wtv,wv"
)

# Fewer than in any recording, even a silent one. A broken header may claim years, and minutes are what is paid for.
_LEAST_BITS_PER_SEC: Final = 50

# A clock that begins this close to 0 begins at 0.
_NO_START_SEC: Final = 0.05

# Bytes read at a time while packets are read.
_BUFFER_BYTES: Final = 1 << 18


# Containers of plain samples: their length is the size of the samples over their rate, whatever the header notes.
_SAMPLES_ALONE: Final = frozenset({"wav", "w64", "aiff", "au", "caf", "voc"})

# Two lengths of one MP3 file that differ by less than this differ by the silence that its encoder has added.
_PADDING_SEC: Final = 0.2


def probe(path: str | os.PathLike[str], name: str | None = None) -> MediaInfo:
    """Return what a local media file holds.

    Args:
        path: The file.
        name: Its name in messages; by default the last part of its path.

    Raises:
        UnplayableMediaError: If it is empty, encrypted, or no audio or video can be read from it.
        MediaError: If it cannot be read.
    """
    name = Path(path).name if name is None else name
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 - an error of opening is not one of reading
    except OSError as error:
        raise MediaError(f"{name!r} cannot be read: {describe_error(error)}.") from None
    with stream:
        return probe_stream(stream, name)


def probe_stream(stream: BinaryIO, name: str) -> MediaInfo:
    """Return what a media file holds.

    Reads the header where that holds the length. Else all packets are read, without decoding them: never is a length
    estimated by the bit rate.

    Args:
        stream: The open file; needs to be seekable.
        name: What to call it in messages.

    Raises:
        UnplayableMediaError: If it is empty, encrypted, or no audio or video can be read from it.
        MediaError: If reading fails, which is no fault of its content.
    """
    import av

    head = _checked_head(stream, name)
    size = stream.seek(0, os.SEEK_END)
    try:
        # Where FFmpeg cannot learn how large a file is, it cannot guess a length by the bit rate: what it reports then
        # is in the header.
        with _opened(stream, sized=False) as container:
            info = _described(container, _track_facts(stream, container.format.name, head), name)
        if not _believable(info.duration_sec, size):
            with _opened(stream) as container:
                info = replace(info, duration_sec=_length_by_samples(container, info, stream))
        if _believable(info.duration_sec, size) and (abs(info.start_sec) < _NO_START_SEC or "mov" in info.container):
            return info
        end = _measured_end(stream, info)
    except av.error.FFmpegError as error:
        raise _unplayable(name, error.strerror) from None
    except OSError as error:
        raise MediaError(f"{name!r} cannot be read: {describe_error(error)}.") from None
    except (EOFError, ValueError) as error:  # PyAV's own words for a header that stops short
        raise _unplayable(name, str(error)) from None
    if end is None or not _believable(end - info.start_sec, size):
        raise _unplayable(name, "neither its header nor its content has a length")
    return replace(info, duration_sec=end - info.start_sec, duration_is="measured")


def film_and_sound(container: Any) -> tuple[list[Any], list[Any]]:
    """Return the video and the audio streams of an open container that hold a recording.

    Args:
        container: The container, as PyAV opens it.

    Returns:
        The streams with moving pictures, without the covers of records, and those with sound.
    """
    import av

    still = av.stream.Disposition.attached_pic | av.stream.Disposition.still_image
    # A stream of a kind that FFmpeg does not know has no codec context, and none of the attributes of its type.
    films = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & still]
    return films, [s for s in container.streams.audio if s.codec_context is not None]


def _checked_head(stream: BinaryIO, name: str) -> bytes:
    try:
        stream.seek(0)
        head = stream.read(containers.HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"{name!r} cannot be read: {describe_error(error)}.") from None
    if not head:
        raise UnplayableMediaError(f"{name!r} is not playable: it is empty (0 bytes). Put the whole file there.")
    if picture := containers.picture_format(head):
        raise _unplayable(name, f"it is a picture ({picture}), not audio or video")
    return head


def _track_facts(stream: BinaryIO, container_format: str, head: bytes) -> containers.TrackFacts:
    if "mov" in container_format:
        return containers.mp4_tracks(stream)
    if "matroska" in container_format:
        return containers.matroska_tracks(stream)
    if container_format == "asf":
        return containers.TrackFacts(encrypted=containers.has_asf_encryption(head))
    return containers.TrackFacts(encrypted=container_format == "mpegts" and containers.is_scrambled(head))


def _described(container: Any, tracks: containers.TrackFacts, name: str) -> MediaInfo:
    if tracks.encrypted:
        raise _unplayable(name, "it is encrypted")
    films, sounds = film_and_sound(container)
    if not films and not sounds:
        raise _unplayable(name, "there is no video and no audio in it that can be decoded")
    film, sound = (films or [None])[0], (sounds or [None])[0]
    rate = film.average_rate if film is not None else None
    width, height = (film.width, film.height) if film is not None else (None, None)
    if tracks.rotation % 180:
        width, height = height, width
    return MediaInfo(
        duration_sec=(container.duration or 0) / 1_000_000,
        has_video=bool(films),
        has_audio=bool(sounds),
        width=width,
        height=height,
        rotation=tracks.rotation if film is not None else 0,
        start_sec=(container.start_time or 0) / 1_000_000,
        container=container.format.name,
        video_codec=film and film.codec_context.codec.canonical_name,
        audio_codec=sound and sound.codec_context.codec.canonical_name,
        frame_rate=None if rate is None else float(rate),
        sample_rate=sound and sound.codec_context.sample_rate,
        channels=sound and sound.codec_context.channels,
    )


def _believable(seconds: float, size: int) -> bool:
    return 0 < seconds <= size * 8 / _LEAST_BITS_PER_SEC


def _length_by_samples(container: Any, info: MediaInfo, stream: BinaryIO) -> float:
    """Return the length of a file whose header counts samples only, or 0 where it does not."""
    seconds = (container.duration or 0) / 1_000_000
    if info.container in _SAMPLES_ALONE and (info.audio_codec or "").startswith("pcm_"):
        return seconds
    if info.container == "mp3" and info.sample_rate:
        # FFmpeg takes the silence off that the encoder has added, and guesses where more recordings follow.
        counted = (containers.mp3_samples(stream) or 0) / info.sample_rate
        return seconds if abs(seconds - counted) < _PADDING_SEC else 0.0
    return 0.0


def _measured_end(stream: BinaryIO, info: MediaInfo) -> float | None:
    """Return the end of the last packet in seconds, or None if there is none; decodes nothing."""
    import av

    timeline = Timeline(info.container)
    if info.duration_sec:
        # The header holds the end or the length, depending on who wrote it: the last packets have the end.
        with _opened(stream) as container, suppress(av.error.FFmpegError):
            container.seek(round(info.duration_sec * 1_000_000))
            _place_all(container, timeline)
        if timeline.end is not None:
            return timeline.end
    with _opened(stream) as container:
        _place_all(container, timeline)
    return timeline.end


def _place_all(container: Any, timeline: Timeline) -> None:
    import av

    films, sounds = film_and_sound(container)
    with suppress(av.error.FFmpegError):  # the rest cannot be read: what came so far is what there is
        for packet in container.demux(*films, *sounds):
            timeline.place(packet)


@contextmanager
def _opened(stream: BinaryIO, *, sized: bool = True) -> Iterator[Any]:
    import av

    stream.seek(0)
    with av.open(
        _Input(stream, sized=sized),
        options={"format_whitelist": FORMATS},
        metadata_errors="replace",
        buffer_size=_BUFFER_BYTES if sized else 32_768,
    ) as container:
        yield container


def _unplayable(name: str, why: str | None) -> UnplayableMediaError:
    return UnplayableMediaError(
        f"{name!r} is not playable: {why or 'nothing could be read from it'}. Replace the file, or exclude it."
    )


class _Input:
    """A stream as FFmpeg is to see it.

    It hides the name, by which FFmpeg would guess the format and which may not be UTF-8, and on wish the size. -1 is
    the answer to FFmpeg for what cannot be done.
    """

    name = "media"

    def __init__(self, stream: BinaryIO, *, sized: bool) -> None:
        self.read = stream.read
        self.tell = stream.tell
        self._stream = stream
        self._sized = sized

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and not self._sized:
            return -1
        try:
            return self._stream.seek(offset, whence)
        except (OSError, ValueError):  # a place that damaged headers name and no file has
            return -1
