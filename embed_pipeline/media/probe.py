"""What a media file really holds: its length, and whether there are pictures and sound."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from embed_pipeline.errors import MediaError, UnplayableMediaError
from embed_pipeline.media.files import MediaInfo
from embed_pipeline.media.store import in_words

# The containers that hold recorded media. Without this list FFmpeg would also take playlists, which make it open
# whatever other files and addresses they name, and text that merely looks like one of its many formats.
_FORMATS = (
    "aac,ac3,aiff,amr,asf,avi,caf,dv,flac,flv,gxf,h264,hevc,ivf,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpeg,mpegts,mpegvideo,m4v,mxf,nut,ogg,rm,w64,wav,wv"
)

# Fewer than in any recording, even a silent one. A broken header may claim years, and minutes are what is paid for.
_LEAST_BITS_PER_SEC = 50


def probe_stream(stream: BinaryIO, name: str) -> MediaInfo:
    """Find out what a media file holds; reads its header, and the packets only where the header does not tell.

    Args:
        stream: The open file; needs to be seekable.
        name: What to call it in messages.

    Returns:
        Length and kinds of content.

    Raises:
        UnplayableMediaError: If it is empty, or no audio or video can be read from it.
        MediaError: If reading fails, which says nothing about what is in it.
    """
    import av

    if not stream.read(1):
        raise UnplayableMediaError(f"{name!r} is not playable: it is empty (0 bytes). Put the whole file there.")
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    try:
        with av.open(_Nameless(stream), options={"format_whitelist": _FORMATS}, metadata_errors="replace") as container:
            return _info(container, size, name)
    except av.error.FFmpegError as error:
        raise UnplayableMediaError(_not_playable(name, error.strerror)) from None
    except OSError as error:
        raise MediaError(f"{name!r} cannot be read: {in_words(error)}.") from None
    except (EOFError, ValueError) as error:  # PyAV's own words for a header that stops short
        raise UnplayableMediaError(_not_playable(name, str(error))) from None


def _info(container: Any, size: int, name: str) -> MediaInfo:
    import av

    # A stream of a kind that FFmpeg does not know has no codec context, and none of the attributes of its type.
    pictures = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None
        and not stream.disposition & av.stream.Disposition.attached_pic
        and not stream.disposition & av.stream.Disposition.still_image
    ]
    sounds = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if not pictures and not sounds:
        raise UnplayableMediaError(_not_playable(name, "there is no video and no audio in it that can be decoded"))
    duration = _duration(container, [*pictures, *sounds], size)
    if duration is None:
        raise UnplayableMediaError(
            _not_playable(name, "how long it is can be told neither by its header nor by its content")
        )
    return MediaInfo(
        duration_sec=duration,
        has_video=bool(pictures),
        has_audio=bool(sounds),
        width=pictures[0].width if pictures else None,
        height=pictures[0].height if pictures else None,
    )


def _duration(container: Any, streams: list[Any], size: int) -> float | None:
    import av

    longest = size * 8 / _LEAST_BITS_PER_SEC
    if container.duration is not None and 0 < container.duration / av.time_base <= longest:
        return float(container.duration / av.time_base)
    lengths = [float(stream.duration * stream.time_base) for stream in streams if stream.duration and stream.time_base]
    if lengths and 0 < max(lengths) <= longest:
        return max(lengths)
    measured = _last_packet_end(container, streams)
    return measured if measured is not None and measured <= longest else None


def _last_packet_end(container: Any, streams: list[Any]) -> float | None:
    """Read all packets, without decoding them, for a recording whose header was never finished."""
    first: float | None = None
    last: float | None = None
    for packet in container.demux(*streams):
        if packet.pts is None or packet.time_base is None:
            continue
        start = float(packet.pts * packet.time_base)
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        first = start if first is None else min(first, start)
        last = end if last is None else max(last, end)
    return last - first if first is not None and last is not None and last > first else None


def _not_playable(name: str, why: str | None) -> str:
    return f"{name!r} is not playable: {why or 'nothing could be read from it'}. Replace the file, or exclude it."


class _Nameless:
    """Hides a file's name from FFmpeg: it would guess the format by it, and not every name can be passed on."""

    name = "media"

    def __init__(self, stream: Any) -> None:
        self.read = stream.read
        self.seek = stream.seek
        self.tell = stream.tell
