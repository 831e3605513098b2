"""Reading the dataset: filtered by media file, option, scope and time, as Arrow, pandas or a matrix."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, cast, overload

from embed_pipeline.dataset import codec
from embed_pipeline.dataset.schema import COLUMNS, conform, segment_schema
from embed_pipeline.dataset.store import EmbeddingDataset
from embed_pipeline.errors import ConfigurationError, DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc
    from numpy.typing import NDArray

    from embed_pipeline.dataset.snapshot import Snapshot, SnapshotFile
    from embed_pipeline.dataset.store import SegmentFile

Source = Literal["auto", "segments", "snapshot"]
_AT_ONCE = 8
_GROUPS_AT_ONCE = 2
_ATTEMPTS = 3
Item = TypeVar("Item")
Result = TypeVar("Result")


class SnapshotRetiredError(DatasetError):
    """A snapshot was retired while it was read."""


class Selection(TypedDict, total=False):
    """The fields of `SegmentFilter`, as keyword arguments."""

    media: str | Collection[str] | None
    option: str | Collection[str] | None
    scope: str | Collection[str] | None
    start_sec: float | None
    end_sec: float | None
    space: str | None
    settings_digest: str | None


@dataclass(frozen=True)
class SegmentFilter:
    """Which rows are wanted; None is all.

    Args:
        media: Partition keys.
        option: Embedding options.
        scope: Embedding scopes.
        start_sec: Only segments that reach beyond this offset, in seconds.
        end_sec: Only segments that begin before this offset, in seconds.
        space: The vector space.
        settings_digest: The digest of the embedding settings.
    """

    media: str | Collection[str] | None = None
    option: str | Collection[str] | None = None
    scope: str | Collection[str] | None = None
    start_sec: float | None = None
    end_sec: float | None = None
    space: str | None = None
    settings_digest: str | None = None

    def expression(self) -> pc.Expression | None:
        """Returns the filter that Parquet readers push down to row groups, or None where every row is wanted."""
        import pyarrow as pa
        import pyarrow.compute as pc

        terms = [
            # Typed, because an empty list of wanted values would have no type of its own.
            pc.field(column).isin(pa.array(_several(wanted), pa.string()))
            for column, wanted in (
                ("media", self.media),
                ("embedding_option", self.option),
                ("embedding_scope", self.scope),
                ("settings_digest", self.settings_digest),
            )
            if wanted is not None
        ]
        if self.start_sec is not None:
            terms.append(pc.field("end_sec") > self.start_sec)
        if self.end_sec is not None:
            terms.append(pc.field("start_sec") < self.end_sec)
        if not terms:
            return None
        whole = terms[0]
        for term in terms[1:]:
            whole &= term
        return whole


@overload
def read_embeddings(
    dataset: EmbeddingDataset | str,
    *,
    to: Literal["arrow"] = ...,
    columns: Collection[str] | None = ...,
    source: Source = ...,
    mix_spaces: bool = ...,
    **wanted: Unpack[Selection],
) -> pa.Table: ...
@overload
def read_embeddings(
    dataset: EmbeddingDataset | str,
    *,
    to: Literal["pandas"],
    columns: Collection[str] | None = ...,
    source: Source = ...,
    mix_spaces: bool = ...,
    **wanted: Unpack[Selection],
) -> pd.DataFrame: ...
@overload
def read_embeddings(
    dataset: EmbeddingDataset | str,
    *,
    to: Literal["matrix"],
    columns: Collection[str] | None = ...,
    source: Source = ...,
    mix_spaces: bool = ...,
    **wanted: Unpack[Selection],
) -> tuple[NDArray[np.float32], pd.DataFrame]: ...
def read_embeddings(
    dataset: EmbeddingDataset | str,
    *,
    to: Literal["arrow", "pandas", "matrix"] = "arrow",
    columns: Collection[str] | None = None,
    source: Source = "auto",
    mix_spaces: bool = False,
    **wanted: Unpack[Selection],
) -> Any:
    """Reads segments.

    Args:
        dataset: The dataset, or its root.
        to: `arrow` gives a `pyarrow.Table`; `pandas` a frame whose `embedding` column holds one array per row; `matrix`
            a pair of an (n, dimension) float32 array and a frame with the other columns, row by row.
        columns: Columns to read; None is all.
        source: `segments` reads the files of the media files as they are now; `snapshot` the compacted table as it was
            when it was last built; `auto` the snapshot where there is one.
        mix_spaces: Reads several vector spaces into one table, with a column `space` at the end. Without it a dataset
            of several spaces is refused unless `space` is given, since their vectors must not be compared.
        **wanted: The fields of `SegmentFilter`: `media`, `option`, `scope`, `start_sec`, `end_sec`, `space`,
            `settings_digest`.

    Returns:
        The rows, sorted by media file within a source, then by option, scope and start.

    Raises:
        DatasetError: Several vector spaces would be mixed, or a file is damaged.
        ConfigurationError: ``to`` is none of the three.
    """
    import pyarrow as pa

    if to not in (known := ("arrow", "pandas", "matrix")):
        raise ConfigurationError(f"Segments cannot be read to {to!r}; known are {', '.join(known)}.")
    if to == "matrix" and columns is not None:
        columns = {*columns, "embedding"}
    batches = _read_all(dataset, columns, source, mix_spaces, wanted)
    if not batches:
        table = _empty(columns)
    elif mix_spaces and len({batch.schema for batch in batches}) > 1:
        # Vectors of several lengths only fit into one column as plain lists.
        table = pa.concat_tables([_plain_lists(batch) for batch in batches])
    else:
        table = pa.concat_tables(batches)
    if to == "arrow":
        return table
    if to == "pandas":
        return table.to_pandas()
    dimension = getattr(table.schema.field("embedding").type, "list_size", 0)
    if len(table) and not dimension:
        raise DatasetError("Vectors of several lengths make no matrix: name one `space`.")
    vectors = codec.matrix(table.column("embedding"), dimension)
    return vectors, table.drop_columns(["embedding"]).to_pandas()


def _read_all(
    dataset: EmbeddingDataset | str,
    columns: Collection[str] | None,
    source: Source,
    mix_spaces: bool,
    wanted: Selection,
) -> list[pa.Table]:
    for attempt in range(_ATTEMPTS):
        try:
            return list(stream_embeddings(dataset, columns=columns, source=source, mix_spaces=mix_spaces, **wanted))
        except SnapshotRetiredError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def stream_embeddings(
    dataset: EmbeddingDataset | str,
    *,
    columns: Collection[str] | None = None,
    source: Source = "auto",
    mix_spaces: bool = False,
    **wanted: Unpack[Selection],
) -> Iterator[pa.Table]:
    """Reads segments piece by piece, with memory bounded by a few pieces.

    Args and errors are those of `read_embeddings`.

    Yields:
        Tables of at most some ten thousand rows, none empty.
    """
    if isinstance(dataset, str):
        dataset = EmbeddingDataset(dataset)
    names = None if columns is None else [column.name for column in COLUMNS if column.name in set(columns)]
    if columns is not None and (unknown := sorted(set(columns) - {column.name for column in COLUMNS})):
        raise DatasetError(f"The dataset has no column {', '.join(unknown)}; see column_descriptions().")
    wants = SegmentFilter(**wanted)
    current = None if source == "segments" else dataset.snapshot()
    if current is not None:
        yield from _stream_snapshot(dataset, current, wants, names, mix_spaces=mix_spaces)
    elif source == "snapshot":
        raise DatasetError(f"The dataset {dataset.root} has no snapshot yet: build embeddings_table first.")
    else:
        yield from _stream_segments(dataset, wants, names, mix_spaces=mix_spaces)


def refuse_mixture(root: str, spaces: Iterable[str]) -> None:
    """Refuses to read several vector spaces as one.

    Raises:
        DatasetError: There are several.
    """
    several = sorted(set(spaces))
    if len(several) > 1:
        raise DatasetError(
            f"The dataset {root} holds {len(several)} vector spaces ({', '.join(several)}), whose vectors must not be "
            f"compared. Name one, such as space={several[0]!r}, or pass mix_spaces=True."
        )


def _stream_segments(
    dataset: EmbeddingDataset, wants: SegmentFilter, names: list[str] | None, *, mix_spaces: bool
) -> Iterator[pa.Table]:
    files = current_files(dataset, wants)
    if not mix_spaces:
        refuse_mixture(dataset.root, (file.space for file in files))
    expression = wants.expression()

    def read(file: SegmentFile) -> pa.Table | None:
        table = dataset.read_file(file, columns=names, filters=expression)
        if table is None:
            # Replaced by a file of another space, or deleted, since it was listed.
            return None
        table = table if names is None else table.select(names)
        return with_space(table, file.space) if mix_spaces else table

    for table in ahead(read, files):
        if table is not None and len(table):
            yield table


def _stream_snapshot(
    dataset: EmbeddingDataset, current: Snapshot, wants: SegmentFilter, names: list[str] | None, *, mix_spaces: bool
) -> Iterator[pa.Table]:
    import pyarrow.dataset as pads
    from pyarrow.fs import LocalFileSystem

    files = [file for file in current.files if wants.space in (None, file.space) and _may_hold(file, wants)]
    if not mix_spaces:
        refuse_mixture(dataset.root, (file.space for file in current.files if wants.space in (None, file.space)))
    storage, expression = dataset.storage, wants.expression()
    filesystem = LocalFileSystem() if storage.is_local else storage.filesystem
    for file in files:
        dimension = int(file.space.rpartition("-")[2])
        try:
            opened = pads.dataset(storage.full(file.path), format="parquet", filesystem=filesystem)
            columns = None if names is None else [name for name in names if name in opened.schema.names]

            def read(group: pads.Fragment, columns: list[str] | None = columns) -> pa.Table:
                return group.to_table(columns=columns, filter=expression, use_threads=False)

            # Row group by row group, since a scanner would hold much of the file in advance.
            groups = [group for whole in opened.get_fragments() for group in whole.split_by_row_group(expression)]
            for table in ahead(read, groups, at_once=_GROUPS_AT_ONCE):
                if len(table):
                    rows = conform(table, dimension)
                    rows = rows if names is None else rows.select(names)
                    yield with_space(rows, file.space) if mix_spaces else rows
        except FileNotFoundError:
            raise SnapshotRetiredError(
                f"Snapshot {current.snapshot_id} of {dataset.root} was retired while it was read; read again, "
                "and keep more snapshots if this happens often."
            ) from None


def _may_hold(file: SnapshotFile, wants: SegmentFilter) -> bool:
    return wants.media is None or any(file.first_media <= key <= file.last_media for key in _several(wants.media))


def current_files(dataset: EmbeddingDataset, wants: SegmentFilter) -> list[SegmentFile]:
    """Lists the files that hold what is wanted, one per media file and settings."""
    if wants.media is None:
        listed: Iterable[SegmentFile] = dataset.segment_files(space=wants.space, settings_digest=wants.settings_digest)
    else:
        listed = _files_of(dataset, wants)
    current: dict[tuple[str, str], SegmentFile] = {}
    for file in listed:
        key = (file.name, file.settings_digest)
        # Two spaces hold the same media file only after a crash; the newer one is the result.
        if key not in current or (file.modified or 0.0) >= (current[key].modified or 0.0):
            current[key] = file
    return sorted(current.values(), key=lambda file: (file.name, file.settings_digest))


def _files_of(dataset: EmbeddingDataset, wants: SegmentFilter) -> Iterator[SegmentFile]:
    digests: Collection[str]
    if wants.settings_digest is not None:
        digests = [wants.settings_digest]
    else:
        digests = {digest for space in dataset.spaces() for digest in dataset.settings_digests(space)}
    for media in _several(cast("str | Collection[str]", wants.media)):
        for digest in digests:
            for file in dataset.find(media, digest):
                if wants.space in (None, file.space):
                    yield file


def ahead(work: Callable[[Item], Result], items: Iterable[Item], *, at_once: int = _AT_ONCE) -> Iterator[Result]:
    """Maps in threads, in order, and never more than a few results ahead of who takes them."""
    waiting = iter(items)
    with ThreadPoolExecutor(at_once, thread_name_prefix="dataset") as pool:
        pending = [pool.submit(work, item) for item in islice(waiting, at_once)]
        try:
            while pending:
                result = pending.pop(0).result()
                pending.extend(pool.submit(work, item) for item in islice(waiting, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def with_space(table: pa.Table, space: str) -> pa.Table:
    """Adds the vector space as the last column."""
    import pyarrow as pa

    return table.append_column(pa.field("space", pa.string(), nullable=False), pa.repeat(space, len(table)))


def _several(value: str | Collection[str]) -> list[str]:
    return [value] if isinstance(value, str) else sorted(set(value))


def _plain_lists(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    fields = [
        field.with_type(pa.list_(pa.float32())) if pa.types.is_fixed_size_list(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def _empty(columns: Collection[str] | None) -> pa.Table:
    table = segment_schema(0, "list").empty_table()
    return table if columns is None else table.select([name for name in table.column_names if name in set(columns)])
