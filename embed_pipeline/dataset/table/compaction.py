"""Compaction of the many small files of segments into few large ones; only changed parts are written again."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from embed_pipeline.dataset import paths
from embed_pipeline.dataset.schema import FileMetadata, segment_schema
from embed_pipeline.dataset.storage import prefetch
from embed_pipeline.dataset.table import snapshot as snapshots
from embed_pipeline.dataset.table.retention import retire
from embed_pipeline.dataset.table.snapshot import DATA, Snapshot, SnapshotFile, Source
from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from embed_pipeline.dataset.codec import ParquetEncoding
    from embed_pipeline.dataset.store import SegmentFile, SegmentStore

TARGET_BYTES = 256 * 2**20


@dataclass(frozen=True)
class CompactionPlan:
    """Work of a compaction.

    Args:
        kept: Files of the snapshot before that stay as they are.
        outputs: The files to write: for each, the sources whose rows it holds, in their order.
        changed: True if anything differs from the snapshot before.
    """

    kept: tuple[SnapshotFile, ...]
    outputs: tuple[tuple[Source, ...], ...]
    changed: bool


def plan_compaction(
    files: Iterable[SnapshotFile], sources: Iterable[Source], live: Iterable[Source], target_bytes: int = TARGET_BYTES
) -> CompactionPlan:
    """Plan which files of a snapshot stay and how the others are written again.

    A file stays unless one of its sources was replaced or is gone. New sources go into new files together with the rest
    of the files that do not stay; files below half the target join in, so that small ones never pile up. The work is
    therefore at most the size of the new sources, plus one file for each old file that was touched, plus half a file.

    Args:
        files: The files of the snapshot before.
        sources: The sources of the snapshot before, each naming its file.
        live: The sources as they are now.
        target_bytes: The size that files should not exceed, in bytes.

    Returns:
        The plan; outputs hold one vector space each and are sorted by media file and settings.
    """
    now = {source.path: source for source in live}
    content: dict[str, list[Source]] = {}
    for source in sources:
        content.setdefault(source.file, []).append(source)
    kept: list[SnapshotFile] = []
    settled: set[str] = set()
    small: list[SnapshotFile] = []
    changed = False
    for file in files:
        held = content.get(file.path, [])
        intact = bool(held) and all(
            source.path in now and now[source.path].version == source.version for source in held
        )
        changed = changed or not intact
        if intact and file.size_bytes >= target_bytes / 2:
            kept.append(file)
            settled.update(source.path for source in held)
        elif intact:
            small.append(file)
    fresh = {path for path in now if path not in settled}
    fresh_spaces = {now[path].space for path in fresh.difference(*({s.path for s in content[f.path]} for f in small))}
    for file in small:
        # A lone small file of a space where nothing else happens is not worth writing again.
        alone = sum(other.space == file.space for other in small) == 1
        if alone and file.space not in fresh_spaces:
            kept.append(file)
            fresh.difference_update(source.path for source in content[file.path])
    outputs = [
        tuple(output)
        for space in sorted({now[path].space for path in fresh})
        for output in _cut([now[path] for path in fresh if now[path].space == space], target_bytes)
    ]
    return CompactionPlan(tuple(kept), tuple(outputs), changed or bool(outputs))


def compact(
    store: SegmentStore,
    *,
    keys: Collection[str] | Mapping[str, str] | None = None,
    settings_digest: str | None = None,
    retain: int = 3,
    target_bytes: int = TARGET_BYTES,
    now: datetime | None = None,
) -> Snapshot:
    """Build the next snapshot of `embeddings_table`; readers go on with the one before until it is complete.

    Memory stays bounded by a few files of segments and one row group, whatever the size of the dataset.

    Args:
        store: The dataset.
        keys: The partition keys whose segments belong into the table; None is all that have some. A mapping to digests
            of settings takes each media file's segments of these settings only.
        settings_digest: Only segments of these settings; None is all.
        retain: The number of snapshots that are kept, the new one included.
        target_bytes: The size that files should not exceed, in bytes; they are at least about half as large, the last
            one of a vector space excepted.
        now: The time to record; None is the present.

    Returns:
        The current snapshot: the one before if nothing changed.

    Raises:
        DatasetError: A file cannot be read or written; the snapshot before stays the current one.
    """
    storage = store.storage
    before = snapshots.read_current(storage)
    known = [] if before is None else snapshots.read_sources(storage, before)
    live = _live_sources(store, keys, settings_digest, {source.path: source.media for source in known})
    plan = plan_compaction(before.files if before else (), known, live, target_bytes)
    if before is not None and not plan.changed:
        return before
    moment = now or datetime.now(UTC)
    # The random part keeps two compactions at the same time from overwriting each other's files.
    snapshot_id = f"{moment:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}"
    files = list(plan.kept)
    stay = {file.path for file in plan.kept}
    sources = [source for source in known if source.file in stay]
    for number, output in enumerate(plan.outputs):
        path = f"{DATA}/space={output[0].space}/{snapshot_id}-{number:05}.parquet"
        written, held = _write_output(store, path, output)
        if written is not None:
            files.append(written)
            sources += held
    files.sort(key=lambda file: (file.space, file.first_media, file.path))
    after = Snapshot(snapshot_id, moment.isoformat(), tuple(files))
    snapshots.publish(storage, after, sources)
    retire(storage, retain)
    return after


def rollback(store: SegmentStore, snapshot_id: str) -> Snapshot:
    """Make an earlier snapshot the current one again.

    The next compaction brings the table up to the segments again, and starts from this snapshot.


    Args:
        store: The dataset.
        snapshot_id: The snapshot.

    Raises:
        DatasetError: It is not kept any more.
    """
    kept = snapshots.read_kept(store.storage)
    for earlier in kept:
        if earlier.snapshot_id == snapshot_id:
            store.storage.put(snapshots.MANIFEST, earlier.to_json())
            return earlier
    names = ", ".join(snapshot.snapshot_id for snapshot in kept) or "none"
    raise DatasetError(f"There is no snapshot {snapshot_id!r} to roll back to; there are: {names}.")


def _cut(sources: list[Source], target_bytes: int) -> Iterator[list[Source]]:
    """Cut one space's sources, in their order, into files of nearly equal size that hardly exceed the target."""
    sources.sort(key=lambda source: (source.media, source.settings_digest))
    total = sum(source.size_bytes for source in sources)
    share = total / max(1, math.ceil(total / target_bytes))
    piece: list[Source] = []
    size = 0
    for source in sources:
        piece.append(source)
        size += source.size_bytes
        if size >= share:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _live_sources(
    store: SegmentStore,
    keys: Collection[str] | Mapping[str, str] | None,
    settings_digest: str | None,
    known: Mapping[str, str],
) -> list[Source]:
    digests = keys if isinstance(keys, Mapping) else {}
    wanted = None if keys is None else set(keys)

    @cache
    def names() -> dict[str, str]:
        return {paths.file_name(key): key for key in wanted or ()}

    def media_of(file: SegmentFile) -> str | None:
        media = known.get(file.path) or paths.media_of(file.name)
        if media is not None:
            return media
        # A name that was cut, or a file of another program, which is not opened where the keys are known.
        return store.media_of(file) if wanted is None else names().get(file.name)

    def source(file: SegmentFile) -> Source | None:
        media = media_of(file)
        if media is None or (wanted is not None and media not in wanted):
            return None
        if digests.get(media, file.settings_digest) != file.settings_digest:
            return None
        return Source(file.path, file.version, media, file.settings_digest, file.space, file.size_bytes)

    listed = map(source, store.current_files(settings_digest=settings_digest))
    return [found for found in listed if found is not None]


def _write_output(store: SegmentStore, path: str, output: Sequence[Source]) -> tuple[SnapshotFile | None, list[Source]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    storage, encoding = store.storage, store.encoding
    model, _, dimension = output[0].space.rpartition("-")
    metadata = FileMetadata(model=model, dimension=int(dimension), space=output[0].space, settings={})
    schema = segment_schema(metadata.dimension, encoding.layout)
    held: list[Source] = []
    absent = {field.name for field in schema if field.nullable}
    with storage.publishing(path) as temporary:
        # A column of which no row has a value is left out; that none has is only known at the end.
        while True:
            held.clear()
            groups = _row_groups(_tables(store, output, held), encoding.row_group_rows)
            present = pa.schema([field for field in schema if field.name not in absent], metadata.encode())
            needed = _write_rows(temporary, present, groups, encoding)
            if not needed:
                break
            absent -= needed
        rows = pq.read_metadata(temporary).num_rows
        size = temporary.stat().st_size
        with temporary.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if not held:
        # Every source was deleted while this ran.
        storage.remove(path)
        return None, []
    kept = [replace(source, file=path) for source in held]
    written = SnapshotFile(
        path, metadata.space, rows, len(held), size, sha256, first_media=held[0].media, last_media=held[-1].media
    )
    return written, kept


def _write_rows(target: Path, schema: pa.Schema, groups: Iterable[pa.Table], encoding: ParquetEncoding) -> set[str]:
    """Write row groups; stop where columns that `schema` lacks have values, and return their names."""
    import pyarrow.parquet as pq

    order = pq.SortingColumn.from_ordering(schema, [("media", "ascending"), ("settings_digest", "ascending")])
    with pq.ParquetWriter(target, schema, sorting_columns=order, **encoding.writer_options()) as writer:
        for group in groups:
            filled = {name for name in group.column_names if group.column(name).null_count < len(group)}
            if needed := filled.difference(schema.names):
                return needed
            writer.write_table(group.select(schema.names).cast(schema), len(group))
    return set()


def _tables(store: SegmentStore, output: Sequence[Source], held: list[Source]) -> Iterator[pa.Table]:
    """Read the sources in their order and note in `held` those that were still there."""

    def read(source: Source) -> tuple[Source, pa.Table | None]:
        found = store.read_path(source.path)
        return source, None if found is None else found[0]

    for source, table in prefetch(read, output):
        if table is not None:
            held.append(source)
            yield table


def _row_groups(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Regroup tables into ones of exactly `rows` rows, the last one excepted."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        if count < rows:
            continue
        whole = pa.concat_tables(waiting)
        for start in range(0, count - count % rows, rows):
            yield whole.slice(start, rows)
        rest = whole.slice(count - count % rows)
        waiting, count = ([rest], len(rest)) if len(rest) else ([], 0)
    if count:
        yield pa.concat_tables(waiting)
