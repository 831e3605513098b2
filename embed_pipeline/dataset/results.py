"""The results that a dataset holds, one per file of segments, and checks of single files.

Both read the footer of a file and not its vectors, so a whole dataset is listed at thousands of files a second.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embed_pipeline.dataset import paths
from embed_pipeline.dataset.codec import damaged
from embed_pipeline.dataset.schema import DamagedFileError, FileMetadata
from embed_pipeline.dataset.segments import MediaSegments
from embed_pipeline.dataset.storage import DEFAULT_CONCURRENCY, prefetch
from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    import pyarrow.parquet as pq

    from embed_pipeline.dataset.store import SegmentFile, SegmentStore

# Columns of the values that files of early releases lack in their metadata; each has one value per file.
_IDENTITY_COLUMNS = ("media", "media_uri", "fingerprint", "media_type", "settings_digest", "task_id", "created_at")


@dataclass(frozen=True)
class StoredResult:
    """One media file's result in the dataset.

    Args:
        media: The media file's partition key.
        media_uri: Where the media file is, without credentials.
        fingerprint: The identity of the content that was embedded.
        media_type: `audio` or `video`.
        duration_sec: Its duration in seconds; None where it is not known.
        settings: The embedding settings, as the request had them.
        settings_digest: Their digest.
        model_name: The platform's model or the emulator's engine that computed the vectors.
        space: The vector space.
        task_id: The embedding task that made the vectors.
        rows: The number of segments.
        created_at: When that task was created, in UTC.
        path: The Parquet file, relative to the root.
        uri: The same for people and other tools.
        size_bytes: The file's size.
        modified: When the file was written, in seconds since the epoch; None where the store does not record it.
    """

    media: str
    media_uri: str
    fingerprint: str
    media_type: str
    duration_sec: float | None
    settings: Mapping[str, Any]
    settings_digest: str
    model_name: str
    space: str
    task_id: str
    rows: int
    created_at: datetime
    path: str
    uri: str
    size_bytes: int
    modified: float | None


@dataclass(frozen=True)
class DamagedFile:
    """A file among the segments that holds no readable result.

    Args:
        path: The file, relative to the root.
        uri: The same for people and other tools.
        media: The partition key that its name stands for; None where the name was cut or is another's.
        error: One sentence on the damage and the remedy.
    """

    path: str
    uri: str
    media: str | None
    error: str


def stored_results(
    store: SegmentStore, *, concurrency: int = DEFAULT_CONCURRENCY
) -> Iterator[StoredResult | DamagedFile]:
    """List the results that a dataset holds, one per file of segments, by space, settings and name.

    A file's footer is read, and in files of early releases a few small columns; vectors never are. After a crash a
    media file may have results in two vector spaces under the same settings: the newer one counts.

    Args:
        store: The dataset.
        concurrency: Files that are read at once.

    Yields:
        The result of each file, or the damage where a file holds none. A file that vanishes meanwhile is left out.

    Raises:
        DatasetError: The store cannot be listed or read, which is no damage of a file.
    """

    def read(file: SegmentFile) -> StoredResult | DamagedFile | None:
        try:
            return _read_result(store, file)
        except DamagedFileError as error:
            return DamagedFile(file.path, file.uri, paths.media_of(file.name), error.message)

    for result in prefetch(read, store.segment_files(), concurrency=concurrency):
        if result is not None:
            yield result


def check_file(
    store: SegmentStore, name: str, settings_digest: str | None = None, *, rows: int | None = None, deep: bool = False
) -> str | None:
    """Check that a file of segments is there and whole; see `EmbeddingDataset.check`."""
    if settings_digest is None:
        file = store.file_at(name)
        absent = f"{store.storage.uri(name)} does not exist, or is no file of segments."
    else:
        file = next(iter(store.find(name, settings_digest)), None)
        absent = f"The dataset has no file with the segments of media file {name!r} under settings {settings_digest}."
    if file is None:
        return absent
    try:
        footer = store.read_footer(file)
        metadata = None if footer is None else _complete_metadata(store, file, footer)
        if footer is None or metadata is None:
            return absent
        problem = _footer_problem(file, footer, rows)
        return problem or (_content_problem(store, file, metadata) if deep else None)
    except DamagedFileError as error:
        return error.message


def _read_result(store: SegmentStore, file: SegmentFile) -> StoredResult | None:
    footer = store.read_footer(file)
    metadata = None if footer is None else _complete_metadata(store, file, footer)
    if footer is None or metadata is None or metadata.created_at is None:
        return None
    return StoredResult(
        media=metadata.media,
        media_uri=metadata.media_uri,
        fingerprint=metadata.fingerprint,
        media_type=metadata.media_type,
        duration_sec=metadata.duration_sec,
        settings=metadata.settings,
        settings_digest=metadata.settings_digest,
        model_name=metadata.model,
        space=metadata.space,
        task_id=metadata.task_id,
        rows=footer.num_rows,
        created_at=metadata.created_at,
        path=file.path,
        uri=file.uri,
        size_bytes=file.size_bytes,
        modified=file.modified,
    )


def _complete_metadata(store: SegmentStore, file: SegmentFile, footer: pq.FileMetaData) -> FileMetadata | None:
    """Return a file's metadata with every field of its media file; None if the file is gone.

    Raises:
        DamagedFileError: The file is not one of the dataset, is empty, or lies where another one belongs.
    """
    metadata = FileMetadata.decode(footer.metadata, file.uri)
    if footer.num_rows == 0:
        raise damaged(file.uri, "it holds not one segment")
    if not all(getattr(metadata, name) for name in _IDENTITY_COLUMNS):
        row = _first_row(store, file)
        if row is None:
            return None
        metadata = replace(metadata, **row)
    try:
        expected = paths.segment_path(metadata.media, metadata.space, metadata.settings_digest)
    except DatasetError as error:
        raise damaged(file.uri, error.message) from None
    # Some file systems hand names back decomposed.
    if unicodedata.normalize("NFC", file.path) != unicodedata.normalize("NFC", expected):
        raise DamagedFileError(
            f"{file.uri} holds the segments of media file {metadata.media!r}, which belong into "
            f"{store.storage.uri(expected)}. Rename it, or delete it."
        )
    return metadata


def _first_row(store: SegmentStore, file: SegmentFile) -> dict[str, Any] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = store.storage.open(file.path)
    if source is None:
        return None
    with source:
        try:
            group = pq.ParquetFile(source).read_row_group(0, columns=list(_IDENTITY_COLUMNS))
            row: dict[str, Any] = group.slice(0, 1).to_pylist()[0]
        except (pa.ArrowException, OSError) as error:
            raise damaged(file.uri, error) from None
    if missing := set(_IDENTITY_COLUMNS).difference(row):
        raise damaged(file.uri, f"it has no column {', '.join(sorted(missing))}")
    return row


def _footer_problem(file: SegmentFile, footer: pq.FileMetaData, rows: int | None) -> str | None:
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    ends = [
        (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
        for group in groups
        for column in map(group.column, range(group.num_columns))
    ]
    if sum(group.num_rows for group in groups) != footer.num_rows:
        return damaged(file.uri, "its row groups hold other rows than its footer counts").message
    if max(ends, default=0) + footer.serialized_size > file.size_bytes:
        return damaged(file.uri, "it is shorter than its footer requires").message
    if rows is not None and footer.num_rows != rows:
        return damaged(file.uri, f"it holds {footer.num_rows} segments, and {rows} were written").message
    return None


def _content_problem(store: SegmentStore, file: SegmentFile, metadata: FileMetadata) -> str | None:
    import pyarrow.compute as pc

    table = store.read_file(file)
    if table is None:
        return None  # replaced by a result in another vector space since it was found
    for name in _IDENTITY_COLUMNS:
        values = pc.unique(table[name]).to_pylist()
        if values != [getattr(metadata, name)]:
            return damaged(file.uri, f"its column {name} does not agree with its metadata").message
    try:
        segments = MediaSegments.from_arrow(table, metadata)
    except DatasetError as error:
        return damaged(file.uri, error.message.rstrip(".")).message
    if table["segment_id"].to_pylist() != segments.segment_ids:
        return damaged(file.uri, "its segment ids do not follow from its columns").message
    return None
