"""Publishing of `embeddings_table` to Lance, a table format with an index for vectors.

One Lance table holds one vector space and bears its name, so that vectors of two spaces are never searched as one. Each
row records the version of the file of segments that it came from, in the column `source_version`: the difference
between a Lance table and a snapshot follows from the two alone, and a publish that died is completed by the next.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embed_pipeline.dataset.reading import SegmentFilter, SnapshotRetiredError, opened, stream_snapshot
from embed_pipeline.dataset.schema import COLUMNS, KEY_COLUMNS, METADATA_PREFIX, segment_schema
from embed_pipeline.dataset.storage import refuse_credentials, secret_values
from embed_pipeline.dataset.table import snapshot as snapshots
from embed_pipeline.errors import ConfigurationError, DatasetError
from embed_pipeline.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pyarrow as pa

    from embed_pipeline.dataset.store import SegmentStore
    from embed_pipeline.dataset.table.snapshot import Snapshot

SOURCE_VERSION = "source_version"
_SPACE_METADATA = f"{METADATA_PREFIX}space".encode()
# Lance takes no vectors that are null, as uncertainties are where they were not asked for.
_COLUMNS = [column.name for column in COLUMNS if column.name != "embedding_uncertainty"]
_BATCH_ROWS = 20_000
_DELETES_AT_ONCE = 500
_ATTEMPTS = 3

ResultKey = tuple[str, str]
"""The partition key and settings digest of one media file's result."""


@dataclass(frozen=True)
class PublishedTable:
    """A Lance table as a publish left it.

    Args:
        name: The table's name, which is the vector space.
        version: The table's version in Lance.
        rows: The number of segments in the table.
        added: The number of results of media files that are new in it.
        replaced: The number of results that were there in an older state.
        removed: The number of results that were taken out.
    """

    name: str
    version: int
    rows: int
    added: int = 0
    replaced: int = 0
    removed: int = 0


def publish_lance(
    dataset: SegmentStore | str,
    uri: str,
    *,
    storage_options: Mapping[str, str] | None = None,
    optimize: bool = True,
) -> list[PublishedTable]:
    """Bring Lance tables up to the current snapshot of `embeddings_table`, one table for each vector space.

    Only results that changed since the last publish are written, and results that left the snapshot are taken out. A
    result is replaced in one step, so that a search meets the old rows or the new ones. Memory is bounded by some ten
    thousand rows, but for `optimize`. One process should publish to a database at a time.

    Args:
        dataset: The dataset, or its root; its table must have been built.
        uri: The folder or URL of the Lance database, such as `s3://bucket/lance`; created if it does not exist. Tables
            of other names in it are left alone.
        storage_options: Passed to Lance; credentials are better left to the store's own usual means.
        optimize: True lets Lance put small files together and take new rows into the indices that exist, wherever
            something changed. It rewrites files of up to a million rows and may hold much of one in memory.

    Returns:
        The tables, by name; those of spaces that left the snapshot are empty.

    Raises:
        DatasetError: There is no snapshot, a table of that name is of another program, or Lance cannot write.
        ConfigurationError: LanceDB is not installed.
    """
    refuse_credentials(uri, "Lance database")
    store = opened(dataset)
    target = _connect(uri, storage_options or {})
    for attempt in range(_ATTEMPTS):
        current = snapshots.read_current(store.storage)
        if current is None:
            raise DatasetError(f"The dataset {store.root} has no snapshot to publish: build embeddings_table first.")
        try:
            names = sorted({*current.spaces, *_published_spaces(target)})
            return [_publish_space(store, current, target, space, optimize=optimize) for space in names]
        except SnapshotRetiredError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


@dataclass(frozen=True)
class _Target:
    uri: str
    database: Any
    secrets: tuple[str, ...] = field(repr=False)

    def failing(self) -> contextlib.AbstractContextManager[None]:
        return _failing(self.uri, self.secrets)


def _publish_space(
    store: SegmentStore, current: Snapshot, target: _Target, space: str, *, optimize: bool
) -> PublishedTable:
    wanted = _wanted_versions(store, current, space)
    with target.failing():
        table = _open(target, space)
        held = _held_versions(table)
    removed = sorted(key for key in held if key not in wanted)
    added = {key: version for key, version in wanted.items() if key not in held}
    replaced = {key: version for key, version in wanted.items() if key in held and held[key] != {version}}
    if changed := {media for media, _ in [*added, *replaced]}:
        filters = SegmentFilter(space=space, media=changed)
        for rows in _whole_results(stream_snapshot(store, current, filters, _COLUMNS, mix_spaces=False)):
            with target.failing():
                _write(table, _rows_of(rows, added), _rows_of(rows, replaced))
    with target.failing():
        for start in range(0, len(removed), _DELETES_AT_ONCE):
            table.delete(_condition(removed[start : start + _DELETES_AT_ONCE]))
        if optimize and (added or replaced or removed):
            table.optimize()
        return PublishedTable(space, table.version, table.count_rows(), len(added), len(replaced), len(removed))


def _wanted_versions(store: SegmentStore, current: Snapshot, space: str) -> dict[ResultKey, str]:
    sources = snapshots.read_sources(store.storage, current)
    if not sources and current.rows:
        raise DatasetError(
            f"{store.storage.uri(current.sources_path)} is missing: the list of the files that the snapshot was built "
            "from. Build embeddings_table again."
        )
    return {(each.media, each.settings_digest): each.version for each in sources if each.space == space}


def _held_versions(table: Any) -> dict[ResultKey, set[str]]:
    columns = ["media", "settings_digest", SOURCE_VERSION]
    held: dict[ResultKey, set[str]] = {}
    for batch in table.search().select(columns).to_batches():
        for media, digest, version in set(zip(*(batch[name].to_pylist() for name in columns), strict=True)):
            held.setdefault((media, digest), set()).add(version)
    return held


def _write(table: Any, added: pa.Table, replaced: pa.Table) -> None:
    if len(added):
        table.add(added)
    if len(replaced):
        merge = table.merge_insert(list(KEY_COLUMNS)).when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(_condition(sorted(set(_keys(replaced))))).execute(replaced)


def _keys(rows: pa.Table) -> list[ResultKey]:
    return list(zip(rows["media"].to_pylist(), rows["settings_digest"].to_pylist(), strict=True))


def _rows_of(rows: pa.Table, versions: Mapping[ResultKey, str]) -> pa.Table:
    """Pick the rows of some results, with the version of the file that each came from."""
    import pyarrow as pa

    found = [versions.get(key) for key in _keys(rows)]
    chosen = rows.filter(pa.array([version is not None for version in found], pa.bool_()))
    column = pa.array([version for version in found if version is not None], pa.string())
    return chosen.append_column(pa.field(SOURCE_VERSION, pa.string(), nullable=False), column)


def _condition(keys: Iterable[ResultKey]) -> str:
    """Return the SQL condition that holds for the rows of some results."""
    media: dict[str, list[str]] = {}
    for name, digest in keys:
        media.setdefault(digest, []).append(name)
    return " OR ".join(
        f"(settings_digest = {_quoted(digest)} AND media IN ({', '.join(map(_quoted, names))}))"
        for digest, names in media.items()
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _whole_results(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Regroup sorted rows into tables that never part the rows of one result."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        if count < _BATCH_ROWS:
            continue
        whole = pa.concat_tables(waiting)
        last = pc.and_(*(pc.equal(whole[name], whole[name][-1]) for name in ("media", "settings_digest"))).to_numpy()
        others = np.flatnonzero(~last)
        end = int(others[-1]) + 1 if len(others) else 0
        if end:
            yield whole.slice(0, end)
        waiting, count = [whole.slice(end)], count - end
    if count:
        yield pa.concat_tables(waiting)


def _connect(uri: str, storage_options: Mapping[str, str]) -> _Target:
    try:
        import lancedb
    except ImportError:
        raise ConfigurationError(
            'Publishing to Lance needs LanceDB, which is not installed: `pip install "embed-pipeline[lance]"`.'
        ) from None
    secrets = tuple(secret_values(storage_options))
    with _failing(uri, secrets):
        return _Target(uri, lancedb.connect(uri, storage_options=dict(storage_options) or None), secrets)


def _open(target: _Target, space: str) -> Any:
    import pyarrow as pa

    if space not in _table_names(target.database):
        full = segment_schema(int(space.rpartition("-")[2]))
        fields = [*(full.field(name) for name in _COLUMNS), pa.field(SOURCE_VERSION, pa.string(), nullable=False)]
        return target.database.create_table(space, schema=pa.schema(fields, {_SPACE_METADATA: space.encode()}))
    table = target.database.open_table(space)
    if not _is_published(table, space):
        raise DatasetError(
            f"The Lance table {space!r} in {redact(target.uri)} was not published from a dataset, and is not touched. "
            "Publish to another database, or drop that table."
        )
    return table


def _published_spaces(target: _Target) -> list[str]:
    with target.failing():
        names = _table_names(target.database)
        return [name for name in names if _is_published(target.database.open_table(name), name)]


def _is_published(table: Any, space: str) -> bool:
    return bool((table.schema.metadata or {}).get(_SPACE_METADATA) == space.encode())


def _table_names(database: Any) -> list[str]:
    names: list[str] = []
    token = None
    while True:
        page = database.list_tables(page_token=token)
        names += page.tables
        if not (token := page.page_token):
            return names


@contextlib.contextmanager
def _failing(uri: str, secrets: tuple[str, ...]) -> Iterator[None]:
    try:
        yield
    except DatasetError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        # Lance reports the errors of its stores as one of these, with the address in the text.
        raise DatasetError(
            f"Cannot publish to Lance in {redact(uri)}: {type(error).__name__}: {redact(str(error), *secrets)}"
        ) from None
