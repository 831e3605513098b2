"""How long media files are, and what they really hold: what a plan and a submission must know before money is spent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from embed_pipeline.errors import MediaError
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.submission_plan import Candidate

if TYPE_CHECKING:
    from embed_pipeline.media import MediaFile, MediaInfo, MediaLibrary


def probe_all(
    library: MediaLibrary, files: Iterable[MediaFile], concurrency: int
) -> Iterator[tuple[MediaFile, MediaInfo | MediaError]]:
    """Read the headers of some media files, several at once.

    Args:
        library: Where they are.
        files: Which.
        concurrency: Files open at once.

    Yields:
        Each file, in order, with what it holds or why it cannot be played.
    """

    def probe(file: MediaFile) -> tuple[MediaFile, MediaInfo | MediaError]:
        try:
            return file, library.probe(file)
        except MediaError as error:
            return file, error

    with ThreadPoolExecutor(concurrency) as pool:
        yield from pool.map(probe, files)


def measured(
    candidate: Candidate, file: MediaFile, found: MediaInfo, settings: EmbeddingSettings
) -> tuple[Candidate, MediaFile]:
    """A candidate and its file with what probing found.

    A name may promise pictures that are not there; the platform would refuse such a file as a video.
    """
    if not found.has_video:
        file = replace(file, media_type="audio")
    digest = settings.digest(file.media_type)
    length = found.duration_sec
    minutes = settings.embedded_minutes(length)
    return replace(candidate, minutes=minutes, duration_sec=length, settings_digest=digest), file


def candidates_for(
    files: Mapping[str, MediaFile], fingerprints: Mapping[str, str], settings: EmbeddingSettings
) -> dict[str, Candidate]:
    """The media files whose content is known, in order, as candidates whose length is not known yet."""
    return {
        key: Candidate(key, fingerprints[key], settings.digest(file.media_type), None)
        for key, file in files.items()
        if key in fingerprints
    }
