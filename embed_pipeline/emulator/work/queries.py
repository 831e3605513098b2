"""Queries: embedding while the caller waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_pipeline.emulator.engine.failure import TASK_FAILED, UNPROCESSABLE, UNSTABLE
from embed_pipeline.emulator.rules.accept import SyncRequest, SyncSource
from embed_pipeline.emulator.rules.bounds import MediaFault, duration_fault, picture_fault
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.request import AcceptedRequest
from embed_pipeline.emulator.rules.tokens import input_tokens, text_tokens
from embed_pipeline.emulator.rules.urls import check_url
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.emulator.state.results import EmbeddingResult, as_answered
from embed_pipeline.emulator.work.compute import Compute, reads_sources
from embed_pipeline.emulator.work.probe import UnreadableMediaError, read_header_isolated
from embed_pipeline.emulator.work.sources import SourceError, content_hash, decoded, local_file
from embed_pipeline.emulator.work.workers import embedded_seconds
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MB = 1 << 20
_MULTI_BYTES = 32 * _MB
LONGEST_SEC = {"marengo3.0": 600.0, "marengo3.5": 30.0}
"""How long audio and video may be that are embedded at once, as documented."""

# Words lie near the rows of this option, and nowhere near pictures or sound.
_WORD_ROWS = "transcription"


@dataclass(frozen=True)
class Embedded:
    """One embedded source.

    Args:
        request: What was asked for, settled.
        result: Its rows.
        input_url: The source's URL.
        input_filename: The file name of an uploaded asset.
        name: What stands for it in the journal: a URL without its query, an asset id, or the hash of the bytes.
    """

    request: AcceptedRequest
    result: EmbeddingResult
    name: str
    input_url: str | None = None
    input_filename: str | None = None

    @property
    def seconds(self) -> float:
        """Embedded seconds."""
        return embedded_seconds(self.request, self.result.duration_sec or 0.0)


@dataclass(frozen=True)
class SyncResult:
    """The result of a request.

    Args:
        rows: The vectors.
        parts: What came of every source, in order.
        tokens: Input tokens by content type.
        truncated: Whether text was cut off.
        comparable: The options whose rows the vectors may be compared with.
        name: What stands for all that was embedded, in the journal.
    """

    rows: EmbeddingResult
    parts: tuple[Embedded, ...]
    tokens: dict[str, int]
    truncated: bool
    comparable: tuple[str, ...]
    name: str


class SyncEmbedder:
    """Embeds media and text while the caller waits; safe to call from any thread.

    Args:
        settings: What may be read.
        compute: What embeds a file.
        folder: Folder for temporary files.
        asset_path: Where the file of an uploaded asset lies, or None if it is not ready.
        asset_filename: The file name of an asset; refuses one that is not there.
    """

    def __init__(
        self,
        settings: EmulatorSettings,
        compute: Compute,
        folder: Path,
        asset_path: Callable[[str], Path | None],
        asset_filename: Callable[..., str],
    ) -> None:
        self._settings, self._compute, self._folder = settings, compute, folder
        self._asset_path, self._asset_filename = asset_path, asset_filename

    def embed(self, request: SyncRequest, key: str) -> SyncResult:
        """Embed all that a request holds.

        Args:
            request: The request.
            key: A name for its files that no other request has.

        Raises:
            Refusal: With 400 or 413, if something of it cannot be embedded.
        """
        parts = tuple(
            self._source(request, source, self._folder / f"{key}.{number}")
            for number, source in enumerate(request.sources)
        )
        words = self._words(request, self._folder / f"{key}.text") if request.text else None
        tokens: dict[str, int] = {}
        for part in parts:
            counted = input_tokens(part.request.input_type, seconds=part.seconds)
            for kind, count in counted.items():
                tokens[kind] = tokens.get(kind, 0) + count
        if words is not None:
            tokens["text"] = tokens.get("text", 0) + text_tokens(len(request.text))
        if request.input_type in ("audio", "video"):
            rows = parts[0].result
            comparable = tuple(dict.fromkeys(option for option, _ in rows.labels))
        else:
            results = [part.result for part in parts] + ([] if words is None else [words])
            rows = combined(results, request)
            comparable = tuple(dict.fromkeys(option for part in parts for option, _ in part.result.labels))
            if words is not None:
                comparable = tuple(dict.fromkeys((*comparable, _WORD_ROWS)))
        names = [part.name for part in parts]
        if words is not None:
            names.append(content_hash(request.text.encode()))
        return SyncResult(rows, parts, tokens, request.truncated, comparable, " ".join(names))

    def _words(self, request: SyncRequest, path: Path) -> EmbeddingResult:
        """Embed the text of a request, in the engine's child process."""
        asked = AcceptedRequest(
            "text", "marengo3.5", "base64", content_hash(request.text.encode()), ("text",), ("asset",),
            ("separate_embedding",), dimension=request.dimension, uncertainty=request.uncertainty,
        )  # fmt: skip
        try:
            if not reads_sources(self._settings):
                return self._compute(None, asked)
            path.write_text(request.text, "utf-8")
            return self._compute(path, asked)
        except SourceError as failure:
            raise _refusal(failure, f"{request.input_type}.input_text") from failure
        finally:
            path.unlink(missing_ok=True)

    def _source(self, request: SyncRequest, source: SyncSource, kept: Path) -> Embedded:
        settings, asked = self._settings, source.request
        multi = request.input_type == "multi_input"
        limit = _MULTI_BYTES if multi else settings.sizes.of_source(asked.input_type)
        input_url = input_filename = None
        if asked.source_kind == "url":
            input_url = asked.source
            root, private = settings.media_root, settings.allow_private_sources
            check_url(asked.source, media_root=root, allow_private=private, field=f"{source.field}.url")
        elif asked.source_kind == "asset":
            input_filename = self._asset_filename(asked.source, field=f"{source.field}.asset_id")
        else:
            largest = min(limit, settings.sizes.of_base64(asked.input_type))
            media = decoded(source.base64 or "", largest, source.field)
            asked = replace(asked, source=content_hash(media))
            kept.write_bytes(media)
        try:
            with _brought(asked, kept, settings, self._asset_path, limit) as path:
                result = self._computed(request, asked, path, source.field)
        except SourceError as failure:
            raise _refusal(failure, source.field) from failure
        finally:
            with suppress(OSError):
                kept.unlink()
        return Embedded(asked, result, without_credentials(asked.source), input_url, input_filename)

    def _computed(self, request: SyncRequest, asked: AcceptedRequest, path: Path | None, field: str) -> EmbeddingResult:
        def check(fault: MediaFault | None) -> None:
            if fault is not None:
                raise Refusal(fault.message, field, code=fault.code)

        longest = LONGEST_SEC[request.model_name]
        shortest = self._settings.min_duration_sec if request.model_name == "marengo3.0" else 0.0
        if asked.timed and path is not None:
            # Its header is looked at before all of it is decoded: the caller waits.
            try:
                header = read_header_isolated(path)
            except UnreadableMediaError as failure:
                raise Refusal(UNPROCESSABLE, field, code="video_file_broken") from failure
            if header.duration_sec is not None:
                check(duration_fault(header.duration_sec, shortest, longest))
            bounded = asked.input_type == "video" and self._settings.switches.picture_size == "documented"
            if bounded and header.width and header.height:
                check(picture_fault(header.width, header.height))
        result = self._compute(path, asked)
        if result.duration_sec is not None:
            check(duration_fault(result.duration_sec, shortest, longest))
        if not result.labels:
            raise SourceError(f"There is nothing to embed: {'; '.join(result.missing.values())}.")
        return as_answered(result, asked, self._settings.switches)


def _refusal(failure: SourceError, field: str) -> Refusal:
    """Answer what would be a task's failure: too much is 413, what may pass is 500, all else is 400."""
    if failure.message.startswith("File size"):
        return Refusal(failure.message, field, status=413)
    if failure.message in (UNSTABLE, TASK_FAILED):
        return Refusal(failure.message, field, code="internal_server_error", status=500)
    return Refusal(failure.message, field)


@contextmanager
def _brought(
    asked: AcceptedRequest,
    kept: Path,
    settings: EmulatorSettings,
    asset_path: Callable[[str], Path | None],
    limit: int,
) -> Iterator[Path | None]:
    if not reads_sources(settings):
        yield None
        return
    path, temporary = local_file(asked, kept=kept, settings=settings, asset_path=asset_path, limit=limit)
    try:
        yield path
    finally:
        if temporary:
            path.unlink(missing_ok=True)


def combined(results: list[EmbeddingResult], request: SyncRequest) -> EmbeddingResult:
    """Add up what several media and a text came to, so that the sum lies near the rows of each.

    Nothing is turned before it is added, unlike in a fused row: a question that holds a picture and words is to find
    both pictures and passages.

    Args:
        results: The rows of every part.
        request: What was asked for.

    Returns:
        One row.
    """
    vectors = [_length_one(result.vectors.astype(np.float64).sum(axis=0)) for result in results]
    vector = _length_one(np.sum(vectors, axis=0))
    uncertainty = None
    if request.uncertainty:
        own = results[0].uncertainty
        spread = np.std(vectors, axis=0) if len(vectors) > 1 or own is None else own.mean(axis=0)
        uncertainty = spread.astype(np.float32)[None]
    return EmbeddingResult(
        engine=results[0].engine,
        duration_sec=None,
        labels=(("", ""),),
        start_sec=np.full(1, np.nan),
        end_sec=np.full(1, np.nan),
        vectors=vector.astype(np.float32)[None],
        uncertainty=uncertainty,
        missing={},
    )


def _length_one(vector: NDArray[Any]) -> NDArray[Any]:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-12 else np.eye(1, vector.size)[0]
