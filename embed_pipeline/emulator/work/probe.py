"""Headers of media files, read in a child process with limits, as files may be hostile."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from embed_pipeline.emulator.engine.request import EngineLimits
from embed_pipeline.emulator.engine.stills import image_format

_CHILD_SEC = 30.0
_CHILD_MEMORY = 2 << 30
_PIXELS = EngineLimits().image_pixels
UNREADABLE = "The file could not be read as audio, video or an image."


class UnreadableMediaError(Exception):
    """A file is not media, or its header has no length."""

    def __init__(self) -> None:
        super().__init__(UNREADABLE)


@dataclass(frozen=True)
class MediaHeader:
    """The header of a media file.

    Args:
        duration_sec: Length in seconds; None for an image.
        container: The container's format names, separated by commas; the format of an image.
        video_codec: The codec of the first video stream, or None if there is none; likewise the following.
        width: Pixels.
        height: Pixels.
        frame_rate: Frames per second.
        audio_codec: The codec of the first audio stream, or None if there is none; likewise the following.
        sample_rate: Hertz.
        channels: Number of channels.
        kind: `audio`, `video` or `image`.
    """

    duration_sec: float | None
    container: str
    video_codec: str | None = None
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    audio_codec: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    kind: str = "audio"


def read_header(path: Path) -> MediaHeader:
    """Read a file's header in this process.

    Raises:
        UnreadableMediaError: If it is not audio or video, or does not say how long it is.
    """
    import av

    image = read_image_header(path)
    if image is not None:
        return image
    try:
        with av.open(str(path)) as container:
            video = next((stream for stream in container.streams.video), None)
            audio = next((stream for stream in container.streams.audio), None)
            if (video is None and audio is None) or not container.duration:
                raise UnreadableMediaError
            rate = video.average_rate if video is not None else None
            return MediaHeader(
                duration_sec=float(container.duration) / 1_000_000,
                container=container.format.name,
                video_codec=None if video is None else video.codec_context.name,
                width=None if video is None else video.codec_context.width,
                height=None if video is None else video.codec_context.height,
                frame_rate=None if rate is None else round(float(rate), 3),
                audio_codec=None if audio is None else audio.codec_context.name,
                sample_rate=None if audio is None else audio.codec_context.sample_rate,
                channels=None if audio is None else audio.codec_context.channels,
                kind="audio" if video is None else "video",
            )
    except (av.FFmpegError, OSError, ValueError, AttributeError):
        raise UnreadableMediaError from None


def read_image_header(path: Path) -> MediaHeader | None:
    """Read the header of an image in this process, or return None if the file is none.

    Raises:
        UnreadableMediaError: If it begins like an image and is none.
    """
    import av

    try:
        with path.open("rb") as file:
            form = image_format(file.read(16))
        if form is None:
            return None
        # The bound keeps the decoder, which looks into the picture to learn of its colours, from a huge one.
        with av.open(str(path), format=f"{form}_pipe", options={"max_pixels": str(_PIXELS)}) as container:
            picture = container.streams.video[0].codec_context
            if not picture.width or not picture.height:
                raise UnreadableMediaError
            return MediaHeader(None, form, width=picture.width, height=picture.height, kind="image")
    except (av.FFmpegError, OSError, ValueError, IndexError):
        raise UnreadableMediaError from None


def read_header_isolated(path: Path) -> MediaHeader:
    """Read a file's header in a child process, so that a hostile file can neither crash nor hold this one.

    Raises:
        UnreadableMediaError: If it is not audio or video, or reading it took too long.
    """
    command = [sys.executable, "-m", "embed_pipeline.emulator.work.probe", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_CHILD_SEC, check=False)  # noqa: S603
        return MediaHeader(**json.loads(done.stdout))
    except (subprocess.TimeoutExpired, ValueError, TypeError):
        raise UnreadableMediaError from None


if __name__ == "__main__":
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_CHILD_MEMORY, _CHILD_MEMORY))
    sys.stdout.write(json.dumps(asdict(read_header(Path(sys.argv[1])))))
