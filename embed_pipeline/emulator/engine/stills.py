"""Embedding what has no length: an image or a text that is asked about."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embed_pipeline.emulator.engine.failure import REQUEST_INVALID, SOURCE_UNREACHABLE, UNPROCESSABLE, MediaFailure
from embed_pipeline.emulator.engine.features.projection import shorten, unit
from embed_pipeline.emulator.engine.request import EmbedRequest, Engine, EngineLimits, EngineResult, FloatArray

SIDE_PX = 1024
"""The longer side of the picture that an engine gets: larger ones are scaled down."""

_PASSAGE_WORDS = 150


def embed_still(engine: Engine, path: Path, request: EmbedRequest, limits: EngineLimits) -> EngineResult:
    """Embed an image or a text as one row of scope `asset`.

    Args:
        engine: Needs a method `embed_picture` for images, `embed_words` for text.
        path: A PNG, JPEG or WebP file, or a text in UTF-8.
        request: Its media type, dimension and uncertainty count.
        limits: The largest image.

    Raises:
        MediaFailure: The file cannot be embedded, or the engine lacks the method.
    """
    if request.media_type == "image":
        see: Callable[[npt.NDArray[np.uint8]], FloatArray] = _method(engine, "embed_picture")
        picture = read_picture(path, limits)
        middle = picture.shape[1] // 2
        halves = [picture[:, :middle], picture[:, middle:]] if request.uncertainty and middle else []
        return _result(engine, request, "visual", see(picture), [see(np.ascontiguousarray(half)) for half in halves])
    read: Callable[[str], FloatArray] = _method(engine, "embed_words")
    text = path.read_text("utf-8")
    half = len(text) // 2
    parts = [text[:half], text[half:]] if request.uncertainty else []
    return _result(engine, request, "text", embed_passages(text, read), [embed_passages(part, read) for part in parts])


def _method(engine: Engine, name: str) -> Callable[..., FloatArray]:
    method: Callable[..., FloatArray] | None = getattr(engine, name, None)
    if method is None:
        raise MediaFailure(f"{REQUEST_INVALID} (the engine {engine.name} has no method {name})")
    return method


def _result(
    engine: Engine, request: EmbedRequest, option: str, vector: FloatArray, halves: Sequence[FloatArray]
) -> EngineResult:
    first, second = halves or (vector, vector)
    spread = np.asarray(np.abs(first - second) / 2, np.float32)[None]
    untimed = np.full(1, np.nan)
    return EngineResult(
        duration_sec=0.0,
        options=(option,),
        scopes=("asset",),
        start_sec=untimed,
        end_sec=untimed,
        vectors=shorten(unit(vector[None]), request.dimension),
        uncertainty=np.ascontiguousarray(spread[:, : request.dimension]) if request.uncertainty else None,
        missing={},
        engine=engine.name,
    )


def embed_passages(text: str, read: Callable[[str], FloatArray]) -> FloatArray:
    """Embed a text of any length: the mean of its passages of about 150 words, weighted by their length.

    A text of one passage has the vector of a transcript of the same words.

    Args:
        text: Any text.
        read: Embeds one passage.

    Returns:
        float32 of shape (512,), of unit length.
    """
    words = text.split()
    if len(words) <= _PASSAGE_WORDS:
        return read(text)
    count = -(-len(words) // _PASSAGE_WORDS)
    bounds = [round(part * len(words) / count) for part in range(count + 1)]
    vectors = [
        read(" ".join(words[first:last])) * np.float32(last - first) for first, last in itertools.pairwise(bounds)
    ]
    return unit(np.asarray(np.sum(vectors, axis=0), np.float32))


def image_format(head: bytes) -> str | None:
    """Return the format of an image by its first 16 bytes: `png`, `jpeg`, `webp`, or None for anything else."""
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
        # With the format given, the decoder neither guesses nor takes the name for a pattern of names. The bound on
        # pixels must hold while the header is read already, where the decoder looks into the picture for its colours:
        # of a picture beyond it, no size is known afterwards.
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
