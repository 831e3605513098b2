"""The contract of engines: their request, limits and result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
TimeArray: TypeAlias = npt.NDArray[np.float64]
Progress: TypeAlias = Callable[[float], None]


@dataclass(frozen=True)
class Fixed:
    """Windows of one length.

    Args:
        duration_sec: The length of a window in seconds; the last one may be shorter.
    """

    duration_sec: float


@dataclass(frozen=True)
class Dynamic:
    """Segments that follow the content: the scenes of a video, the pauses of a recording.

    Args:
        min_duration_sec: No segment is shorter than this, in seconds, unless the whole file is.
    """

    min_duration_sec: float


@dataclass(frozen=True)
class EmbedRequest:
    """Settings for embedding one file.

    Args:
        media_type: What the caller takes the file for; of `audio` the pictures are never decoded. An `image` or a
            `text` has one row of scope `asset`, whatever the options and scopes.
        options: Any of `visual`, `audio` and `transcription`.
        scopes: Any of `clip` (a row per segment) and `asset` (one row for the whole).
        embedding_types: `separate_embedding` (a row per option), `fused_embedding` (one row over all options), or both.
        start_sec: Where the window begins, in seconds of the file; None means at its beginning.
        end_sec: Where the window ends, in seconds of the file; None means at its end.
        segmentation: How the window is divided.
        dimension: How many values a vector has: a prefix of the full 512, of unit length again.
        model_name: The model that was asked for. An engine computes what it computes; it may use the name to tell
            the models' rules apart, never to pass its vectors off as theirs.
        uncertainty: Whether each vector comes with an estimate of how uncertain its values are.
    """

    media_type: Literal["audio", "video", "image", "text"]
    options: tuple[str, ...]
    scopes: tuple[str, ...]
    embedding_types: tuple[str, ...] = ("separate_embedding",)
    start_sec: float | None = None
    end_sec: float | None = None
    segmentation: Fixed | Dynamic = field(default_factory=lambda: Dynamic(4.0))
    dimension: int = 512
    model_name: str = "marengo3.0"
    uncertainty: bool = False


@dataclass(frozen=True)
class EngineResult:
    """The vectors of one file, one row each; of audio and video sorted by option, scope and start.

    Args:
        duration_sec: How long the media file lasts, in seconds. With an end to the window the file is not decoded
            beyond it, and this is what its header says. 0 for what has no length.
        options: Per row: `visual`, `audio`, `transcription`, `fused` or `text`.
        scopes: Per row: `clip` or `asset`.
        start_sec: Per row: float64 seconds from the beginning of the file (of the file, also with a window); not a
            number where there is no time.
        end_sec: Per row: float64 seconds, likewise.
        vectors: float32 of shape (rows, dimension), each of unit length.
        uncertainty: float32 of shape (rows, dimension), never negative, or None where it was not asked for.
        missing: For each option that was asked for and has no row: why.
        engine: The engine's name and version, such as `signal-2`: only vectors of one engine may be compared.
    """

    duration_sec: float
    options: tuple[str, ...]
    scopes: tuple[str, ...]
    start_sec: TimeArray
    end_sec: TimeArray
    vectors: FloatArray
    uncertainty: FloatArray | None
    missing: dict[str, str]
    engine: str


@dataclass(frozen=True)
class EngineLimits:
    """Limits of one media file; beyond them it counts as hostile.

    Args:
        wall_sec: How long a file may take in all, in seconds.
        stall_sec: How long an engine may go without getting any further into the file, in seconds.
        memory_bytes: How much address space the child process that decodes may use.
        duration_sec: How long a file (or the window asked of it) may last, in seconds.
        side_px: The longest side a picture may have.
        pixels: How many pixels a picture may have.
        threads: Decoding threads per file; 0 means as many as there are cores, at most 8.
        image_pixels: How many pixels an image may have.
    """

    wall_sec: float = 3600.0
    stall_sec: float = 60.0
    memory_bytes: int = 3 << 30
    duration_sec: float = 4 * 3600.0
    side_px: int = 8192
    pixels: int = 5184 * 2880
    threads: int = 0
    image_pixels: int = 100_000_000


def no_progress(_media_sec: float) -> None:
    """Ignore progress."""


@runtime_checkable
class Engine(Protocol):
    """Computes vectors from a media file.

    A team that has a model of its own implements this and names it `package.module:attribute`, where the attribute is
    an engine or something that returns one when called. The engine is built once per worker process and then used for
    many files, one at a time.

    Its `name` holds engine and version, such as `signal-2`. Raise the version whenever the vectors change: it is
    part of the vector space, which keeps apart what cannot be compared.
    """

    name: str

    def embed(self, path: Path, request: EmbedRequest, limits: EngineLimits, progress: Progress) -> EngineResult:
        """Embed one local media file.

        Args:
            path: The file. It comes from strangers: believe nothing that its header says.
            request: What to embed of it.
            limits: What it may cost. Time and memory are watched from outside; duration and picture size are the
                engine's to refuse.
            progress: To be called now and then with the seconds of media done, more often than `limits.stall_sec`.

        Raises:
            MediaFailure: The file cannot be embedded.
        """
        ...
