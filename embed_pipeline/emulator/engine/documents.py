"""Embedding documents: the rendered pages of a PDF, its text, and plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from embed_pipeline.emulator.engine.failure import (
    CONTEXT_EXCEEDED,
    REQUEST_INVALID,
    SOURCE_UNREACHABLE,
    UNPROCESSABLE,
    MediaFailure,
)
from embed_pipeline.emulator.engine.passages import chunks, decode_text, embed_passages, sentences
from embed_pipeline.emulator.engine.picture_file import SIDE_PX
from embed_pipeline.emulator.engine.projection import unit
from embed_pipeline.emulator.engine.request import EmbedRequest, EngineLimits, FloatArray, Place, Progress
from embed_pipeline.emulator.engine.sheet import Read, See, Sheet

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

QUADRANTS: Final = ("top_left", "top_right", "bottom_left", "bottom_right")
_PAGES_PER_QUADRANTS = 5
_MAGIC_WITHIN = 1024
_MB = 1 << 20


def is_pdf(head: bytes) -> bool:
    """Tell a PDF by its first kilobyte."""
    return b"%PDF-" in head[:_MAGIC_WITHIN]


def embed_document(
    path: Path, request: EmbedRequest, limits: EngineLimits, progress: Progress, sheet: Sheet, see: See, read: Read
) -> None:
    """Add the rows of a document.

    Args:
        path: The file.
        request: What to embed of it.
        limits: What it may cost.
        progress: Called after every page or chunk.
        sheet: Where the rows go.
        see: What embeds a picture.
        read: What embeds words.

    Raises:
        MediaFailure: It cannot be embedded.
    """
    try:
        with path.open("rb") as file:
            pdf = is_pdf(file.read(_MAGIC_WITHIN))
    except OSError as error:
        raise MediaFailure(SOURCE_UNREACHABLE, permanent=False, detail=f"not opened: {error.strerror}") from error
    if pdf:
        with _opened(path) as document:
            _check_pages(len(document), path.stat().st_size, request, limits)
            if "visual" in request.options:
                _look(document, request, progress, sheet, see)
            if "text" in request.options:
                _read_pages(document, limits, progress, sheet, read)
    elif "visual" in request.options:
        raise MediaFailure(REQUEST_INVALID, detail="a text has no pages to look at")
    else:
        _read_text(path, request, limits, progress, sheet, read)


@contextmanager
def _opened(path: Path) -> Iterator[PdfDocument]:
    try:
        import pypdfium2
    except ImportError:
        needed = "PDF files need the extra of that name: pip install 'embed-pipeline[documents]'"
        raise MediaFailure(f"{UNPROCESSABLE} ({needed})") from None
    try:
        with closing(pypdfium2.PdfDocument(path)) as document:
            yield document
    except (pypdfium2.PdfiumError, FileNotFoundError) as error:
        raise MediaFailure(UNPROCESSABLE, detail=f"not opened: {error}") from error


def _check_pages(pages: int, size: int, request: EmbedRequest, limits: EngineLimits) -> None:
    allowance = limits.pages_per_mb * max(1, math.ceil(size / _MB))
    if request.quadrants:
        allowance //= _PAGES_PER_QUADRANTS
    if pages > allowance:
        raise MediaFailure(f"Document ({pages} pages) exceeds maximum limit of {allowance} pages")


def _look(document: PdfDocument, request: EmbedRequest, progress: Progress, sheet: Sheet, see: See) -> None:
    total: FloatArray = np.zeros(0, np.float32)
    for number, page in _pages(document):
        # Each quarter of a page is to be seen as sharply as a page.
        picture = _rendered(page, 2 * SIDE_PX if request.quadrants else SIDE_PX)
        progress(float(number))
        if picture is None:
            continue
        if "local" in request.scopes:
            vector = sheet.add_picture("page", Place(page=number), picture, see)
            if request.quadrants:
                for name, quarter in zip(QUADRANTS, _quarters(picture), strict=True):
                    sheet.add_picture("page", Place(page=number, quadrant=name), quarter, see)
        else:
            sheet.pictures += 1
            vector = see(picture)
        total = total + vector if total.size else vector
    if not total.size:
        raise MediaFailure(UNPROCESSABLE, detail="no page could be rendered")
    if "asset" in request.scopes:
        sheet.add("visual", "asset", Place(), unit(total))


def _pages(document: PdfDocument) -> Iterator[tuple[int, PdfPage]]:
    """Pages that can be read, with their numbers from 1 on; damaged ones are passed over."""
    import pypdfium2

    for index in range(len(document)):
        try:
            page = document[index]
        except pypdfium2.PdfiumError:
            continue
        with closing(page):
            yield index + 1, page


def _rendered(page: PdfPage, side: int) -> npt.NDArray[np.uint8] | None:
    """Draw a page so that its longer side has `side` pixels; None where it cannot be drawn."""
    import pypdfium2

    longest = max(page.get_size())
    if not 0 < longest < math.inf:
        return None
    try:
        bitmap: Any = page.render(scale=side / longest, may_draw_forms=False, rev_byteorder=True)
    except (pypdfium2.PdfiumError, ValueError, RuntimeError):
        return None
    with closing(bitmap):
        return np.ascontiguousarray(bitmap.to_numpy()[:, :, :3])


def _quarters(picture: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    height, width = picture.shape[:2]
    rows = slice(0, max(1, height // 2)), slice(height // 2, height)
    columns = slice(0, max(1, width // 2)), slice(width // 2, width)
    return [np.ascontiguousarray(picture[row, column]) for row in rows for column in columns]


def _read_pages(document: PdfDocument, limits: EngineLimits, progress: Progress, sheet: Sheet, read: Read) -> None:
    import pypdfium2

    texts, length = [], 0
    for number, page in _pages(document):
        try:
            with closing(page.get_textpage()) as words:
                texts.append(words.get_text_bounded())
        except pypdfium2.PdfiumError:
            continue
        length += len(texts[-1]) + 1
        progress(float(number))
        if length > limits.characters:
            break
    text = "\n".join(texts).strip()
    if not text:
        sheet.missing["text"] = "the document has no text, only pictures of it"
        return
    _add_whole(text, limits, sheet, read)


def _read_text(
    path: Path, request: EmbedRequest, limits: EngineLimits, progress: Progress, sheet: Sheet, read: Read
) -> None:
    if "asset" in request.scopes:
        # Four bytes a character are the most that any of the encodings takes.
        with path.open("rb") as file:
            head = file.read(4 * (limits.characters + 1))
            text = decode_text(head, whole=not file.read(1))
        _add_whole(text, limits, sheet, read)
    if "local" not in request.scopes:
        return
    if request.sentences is None:
        raise MediaFailure(REQUEST_INVALID, detail="chunks were asked for, but not how many sentences they have")
    text = decode_text(path.read_bytes())
    for number, chunk in enumerate(chunks(sentences(text), request.sentences)):
        if len(chunk) > limits.characters:
            raise MediaFailure(CONTEXT_EXCEEDED)
        sheet.add_text("chunk", Place(chunk=number), chunk, lambda words: embed_passages(words, read))
        progress(float(number))


def _add_whole(text: str, limits: EngineLimits, sheet: Sheet, read: Read) -> None:
    sheet.truncated = sheet.truncated or len(text) > limits.characters
    sheet.add_text("asset", Place(), text[: limits.characters], lambda words: embed_passages(words, read))
