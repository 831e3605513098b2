"""Reading an image file as one picture."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embed_pipeline.emulator.engine.failure import SOURCE_UNREACHABLE, UNPROCESSABLE, MediaFailure
from embed_pipeline.emulator.engine.request import EngineLimits

SIDE_PX = 1024
"""Larger pictures are made smaller, to this many pixels at their longer side: the engines see less still."""


def image_format(head: bytes) -> str | None:
    """Name the format of an image by its first bytes, or None if it is none that is read: `png`, `jpeg` or `webp`."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def read_picture(path: Path, limits: EngineLimits) -> npt.NDArray[np.uint8]:
    """Read an image file.

    Args:
        path: A PNG, JPEG or WebP file.
        limits: How many pixels it may have.

    Returns:
        uint8 RGB of shape (height, width, 3), at most `SIDE_PX` high and wide.

    Raises:
        MediaFailure: There is no such file, it is no such image, or it has more pixels than allowed.
    """
    import av

    try:
        with path.open("rb") as file:
            kind = image_format(file.read(16))
    except OSError as error:
        raise MediaFailure(SOURCE_UNREACHABLE, permanent=False, detail=f"not opened: {error.strerror}") from error
    if kind is None:
        raise MediaFailure(UNPROCESSABLE, detail="neither PNG nor JPEG nor WebP")
    av.logging.set_level(None)
    try:
        # Told the format, the decoder neither guesses nor takes the name for a pattern of names. The bound on pixels
        # must hold while the header is read already, where the decoder looks into the picture to learn of its
        # colours: of a picture beyond it, no size is known afterwards.
        with av.open(
            path.as_posix() if not path.as_posix().startswith("-") else f"./{path}",
            format=f"{kind}_pipe",
            options={"max_pixels": str(limits.image_pixels), "protocol_whitelist": "file"},
        ) as container:
            stream = container.streams.video[0]
            if not stream.codec_context.width or not stream.codec_context.height:
                raise MediaFailure(UNPROCESSABLE, detail=f"no picture of at most {limits.image_pixels} pixels")
            stream.codec_context.options = {"max_pixels": str(limits.image_pixels)}
            frame = next(itertools.islice(container.decode(stream), 1), None)
            if frame is None:
                raise MediaFailure(UNPROCESSABLE, detail="no picture could be decoded")
            scale = min(1.0, SIDE_PX / max(frame.width, frame.height))
            width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
            small = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
            return np.asarray(small.to_ndarray(), np.uint8)
    except (av.error.FFmpegError, ValueError, IndexError, OSError) as error:
        raise MediaFailure(UNPROCESSABLE, detail=f"not decoded: {type(error).__name__}") from error
