"""Embedding what has no length: an image, the pages of a document, its text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from embed_pipeline.emulator.engine.documents import embed_document
from embed_pipeline.emulator.engine.failure import REQUEST_INVALID, MediaFailure
from embed_pipeline.emulator.engine.picture_file import read_picture
from embed_pipeline.emulator.engine.request import (
    EmbedRequest,
    Engine,
    EngineLimits,
    EngineResult,
    FloatArray,
    Place,
    Progress,
)
from embed_pipeline.emulator.engine.sheet import Sheet


def embed_still(
    engine: Engine, path: Path, request: EmbedRequest, limits: EngineLimits, progress: Progress
) -> EngineResult:
    """Embed an image or a document with what an engine knows of pictures and of words.

    Args:
        engine: It needs a method `embed_picture` for images and rendered pages, and `embed_words` for text.
        path: The file.
        request: What to embed of it.
        limits: What it may cost.
        progress: Called after every page or chunk.

    Raises:
        MediaFailure: The file cannot be embedded, or the engine knows nothing of what was asked for.
    """
    see, read = _ability(engine, "embed_picture"), _ability(engine, "embed_words")
    sheet = Sheet(request, engine.name, limits.rows)
    if request.media_type == "image":
        sheet.add_picture("asset", Place(), read_picture(path, limits), see)
    else:
        embed_document(path, request, limits, progress, sheet, see, read)
    return sheet.result()


def _ability(engine: Engine, name: str) -> Callable[..., FloatArray]:
    """Return a method that not every engine has; where this one has not, calling it fails the file."""

    def unable(_what: object) -> FloatArray:
        raise MediaFailure(f"{REQUEST_INVALID} (the engine {engine.name} has no method {name})")

    method: Callable[..., FloatArray] = getattr(engine, name, unable)
    return method
