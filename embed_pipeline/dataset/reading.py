"""Reading the dataset: filtered by media file, option, scope and time, as Arrow, pandas, polars or a matrix."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast, overload

from embed_pipeline.dataset.codec import matrix
from embed_pipeline.dataset.schema import COLUMNS, conform, segment_schema
from embed_pipeline.dataset.storage import prefetch
from embed_pipeline.dataset.store import SegmentStore
from embed_pipeline.dataset.table.snapshot import MANIFEST, read_current
from embed_pipeline.errors import ConfigurationError, DatasetError
from embed_pipeline.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    import numpy as np
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import pyarrow.compute as pc
    from numpy.typing import NDArray

    from embed_pipeline.dataset.store import SegmentFile
    from embed_pipeline.dataset.table.snapshot import Snapshot, SnapshotFile

Source = Literal["auto", "segments", "snapshot"]
Form = Literal["arrow", "pandas", "polars", "matrix"]
_FORMS = ("arrow", "pandas", "polars", "matrix")
_GROUPS_AT_ONCE = 2
_ATTEMPTS = 3


class SnapshotRetiredError(DatasetError):
    """A snapshot was retired while it was read."""


class Selection(TypedDict, total=False):
    """The fields of `SegmentFilter`, as keyword arguments."""

    media: str | Collection[str] | None
    exclude_media: str | Collection[str] | None
    option: str | Collection[str] | None
    scope: str | Collection[str] | None
    start_sec: float | None
    end_sec: float | None
    space: str | None
    settings_digest: str | None


@dataclass(frozen=True)
class SegmentFilter:
    """Filter of rows; None selects all.

    Args:
        media: Partition keys.
        exclude_media: Partition keys that are left out.
        option: Embedding options.
        scope: Embedding scopes.
        start_sec: Only segments that reach beyond this offset, in seconds.
        end_sec: Only segments that begin before this offset, in seconds.
        space: The vector space.
        settings_digest: The digest of the embedding settings.
    """

    media: str | Collection[str] | None = None
    exclude_media: str | Collection[str] | None = None
    option: str | Collection[str] | None = None
    scope: str | Collection[str] | None = None
    start_sec: float | None = None
    end_sec: float | None = None
    space: str | None = None
    settings_digest: str | None = None

    def expression(self, *, with_media: bool = True) -> pc.Expression | None:
        """Return the filter that Parquet readers push down to row groups, or None where every row is selected.

        Args:
            with_media: False where the files were chosen by media file already: a long list costs time in each.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        columns: list[tuple[str, str | Collection[str] | None]] = [
            ("embedding_option", self.option),
            ("embedding_scope", self.scope),
            ("settings_digest", self.settings_digest),
        ]
        if with_media:
            columns.append(("media", self.media))
        terms = [
            # Typed, because an empty list of values would have no type of its own.
            pc.field(column).isin(pa.array(several(values), pa.string()))
            for column, values in columns
            if values is not None
        ]
        if with_media and self.exclude_media is not None:
            terms.append(~pc.field("media").isin(pa.array(several(self.exclude_media), pa.string())))
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
    dataset: SegmentStore | str,
    *,
    to: Literal["arrow"] = ...,
    columns: Collection[str] | None = ...,
    source: Source = ...,
    mix_spaces: bool = ...,
    **wanted: Unpack[Selection],
) -> pa.Table: ...
@overload
def read_embeddings(
    dataset: SegmentStore | str,
    *,
    to: Literal["pandas"],
    columns: Collection[str] | None = ...,
    source: Source = ...,
    mix_spaces: bool = ...,
    **wanted: Unpack[Selection],
) -> pd.DataFrame: ...
@overload
def read_embeddings(
    dataset: SegmentStore | str,
    *,
    to: Literal["polars"],
    columns: Collection[str] | None = ...,
    source: Source = ...,
    mix_spaces: bool = ...,
    **wanted: Unpack[Selection],
) -> pl.DataFrame: ...
@overload
def read_embeddings(
    dataset: SegmentStore | str,
    *,
    to: Literal["matrix"],
    columns: Collection[str] | None = ...,
    source: Source = ...,
    mix_spaces: bool = ...,
    **wanted: Unpack[Selection],
) -> tuple[NDArray[np.float32], pd.DataFrame]: ...
def read_embeddings(
    dataset: SegmentStore | str,
    *,
    to: Form = "arrow",
    columns: Collection[str] | None = None,
    source: Source = "auto",
    mix_spaces: bool = False,
    **wanted: Unpack[Selection],
) -> Any:
    """Read segments.

    Args:
        dataset: The dataset, or its root.
        to: `arrow` gives a `pyarrow.Table`; `pandas` a frame whose `embedding` column holds one array per row; `polars`
            a frame whose `embedding` column is an `Array`; `matrix` a pair of an (n, dimension) float32 array and a
            pandas frame with the other columns, row by row.
        columns: Columns to read; None is all.
        source: `segments` reads the files of the media files as they are now; `snapshot` the compacted table as it was
            when it was last built; `auto` the snapshot where there is one.
        mix_spaces: Reads several vector spaces into one table, with a column `space` at the end. Without it a dataset
            of several spaces is refused unless `space` is given, since their vectors must not be compared.
        **wanted: The fields of `SegmentFilter`: `media`, `exclude_media`, `option`, `scope`, `start_sec`, `end_sec`,
            `space`, `settings_digest`.

    Returns:
        The rows, sorted by media file within a source, then by option, scope and start.

    Raises:
        DatasetError: Several vector spaces would be mixed, or a file is damaged.
        ConfigurationError: `to` is none of the four, or polars is not installed.
    """
    if to not in _FORMS:
        raise ConfigurationError(f"Segments cannot be read to {to!r}; known are {', '.join(_FORMS)}.")
    if to == "matrix" and columns is not None:
        columns = {*columns, "embedding"}
    table = _concatenate(_read_all(dataset, columns, source, mix_spaces, wanted), columns)
    if to == "pandas":
        return table.to_pandas()
    if to == "polars":
        return _to_polars(table)
    if to == "matrix":
        dimension = getattr(table.schema.field("embedding").type, "list_size", 0)
        if len(table) and not dimension:
            raise DatasetError("Vectors of several lengths make no matrix: name one `space`.")
        return matrix(table.column("embedding"), dimension), table.drop_columns(["embedding"]).to_pandas()
    return table


def _concatenate(batches: list[pa.Table], columns: Collection[str] | None) -> pa.Table:
    import pyarrow as pa

    if not batches:
        empty = segment_schema(0, "list").empty_table()
        return empty if columns is None else empty.select([name for name in empty.column_names if name in set(columns)])
    if len({batch.schema for batch in batches}) > 1:
        # Vectors of several lengths only fit into one column as plain lists.
        batches = [_plain_lists(batch) for batch in batches]
    return pa.concat_tables(batches)


def _to_polars(table: pa.Table) -> pl.DataFrame:
    try:
        import polars as pl
    except ImportError:
        raise ConfigurationError(
            'Reading to polars needs polars, which is not installed: `pip install "polars>=1.10"`.'
        ) from None
    return cast("pl.DataFrame", pl.from_arrow(table))


def _read_all(
    dataset: SegmentStore | str,
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
    dataset: SegmentStore | str,
    *,
    columns: Collection[str] | None = None,
    source: Source = "auto",
    mix_spaces: bool = False,
    **wanted: Unpack[Selection],
) -> Iterator[pa.Table]:
    """Read segments piece by piece, with memory bounded by a few pieces.

    Args and errors are those of `read_embeddings`.

    Yields:
        Tables of at most some ten thousand rows, none empty.
    """
    store = opened(dataset)
    names = None if columns is None else [column.name for column in COLUMNS if column.name in set(columns)]
    if columns is not None and (unknown := sorted(set(columns) - {column.name for column in COLUMNS})):
        raise DatasetError(f"The dataset has no column {', '.join(unknown)}; see column_descriptions().")
    wants = SegmentFilter(**wanted)
    current = None if source == "segments" else read_current(store.storage)
    if current is not None:
        yield from stream_snapshot(store, current, wants, names, mix_spaces=mix_spaces)
    elif source == "snapshot":
        raise DatasetError(f"The dataset {store.root} has no snapshot yet: build embeddings_table first.")
    else:
        yield from _stream_segments(store, wants, names, mix_spaces=mix_spaces)


def opened(dataset: SegmentStore | str) -> SegmentStore:
    """Return the dataset that is named by itself or by its root."""
    return SegmentStore(dataset) if isinstance(dataset, str) else dataset


def spaces_of(store: SegmentStore, source: Source) -> list[str]:
    """List the vector spaces of a source, by name."""
    current = None if source == "segments" else read_current(store.storage)
    return store.spaces() if current is None else current.spaces


def several(value: str | Collection[str]) -> list[str]:
    """Return one value or several as a sorted list without repeats."""
    return [value] if isinstance(value, str) else sorted(set(value))


def refuse_mixture(root: str, spaces: Iterable[str]) -> None:
    """Refuse to read several vector spaces as one.

    Raises:
        DatasetError: There are several.
    """
    found = sorted(set(spaces))
    if len(found) > 1:
        raise DatasetError(
            f"The dataset {root} holds {len(found)} vector spaces ({', '.join(found)}), whose vectors must not be "
            f"compared. Name one, such as space={found[0]!r}, or pass mix_spaces=True."
        )


def _stream_segments(
    store: SegmentStore, wants: SegmentFilter, names: list[str] | None, *, mix_spaces: bool
) -> Iterator[pa.Table]:
    files = store.current_files(
        space=wants.space,
        settings_digest=wants.settings_digest,
        media=None if wants.media is None else several(wants.media),
        exclude_media=several(wants.exclude_media or ()),
    )
    if not mix_spaces:
        refuse_mixture(store.root, (file.space for file in files))
    expression = wants.expression(with_media=False)

    def read(file: SegmentFile) -> pa.Table | None:
        table = store.read_file(file, columns=names, filters=expression)
        if table is None:
            # Replaced by a file of another space, or deleted, since it was listed.
            return None
        table = table if names is None else table.select(names)
        return _with_space(table, file.space) if mix_spaces else table

    for table in prefetch(read, files):
        if table is not None and len(table):
            yield table


def stream_snapshot(
    store: SegmentStore, current: Snapshot, wants: SegmentFilter, names: list[str] | None, *, mix_spaces: bool
) -> Iterator[pa.Table]:
    """Read the rows of a snapshot piece by piece, by space, media file and settings.

    Args:
        store: The dataset.
        current: The snapshot.
        wants: The filter.
        names: Columns to read, in the order of the schema; None is all.
        mix_spaces: True reads several vector spaces, and adds a column `space`.

    Yields:
        Tables of at most one row group, none empty.

    Raises:
        DatasetError: Several vector spaces would be mixed.
        SnapshotRetiredError: The snapshot was retired meanwhile.
    """
    of_space = [file for file in current.files if wants.space in (None, file.space)]
    if not mix_spaces:
        refuse_mixture(store.root, (file.space for file in of_space))
    media = None if wants.media is None else several(wants.media)
    excluded = set(several(wants.exclude_media or ()))
    expression = wants.expression()
    for file in of_space:
        if not _may_hold(file, media, excluded):
            continue
        try:
            for table in _row_groups(store, file, names, expression):
                yield _with_space(table, file.space) if mix_spaces else table
        except FileNotFoundError:
            raise SnapshotRetiredError(
                f"Snapshot {current.snapshot_id} of {store.root} was retired while it was read; read again, "
                "and keep more snapshots if this happens often."
            ) from None


def _row_groups(
    store: SegmentStore, file: SnapshotFile, names: list[str] | None, expression: pc.Expression | None
) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.dataset as pads
    from pyarrow.fs import LocalFileSystem

    storage, dimension = store.storage, int(file.space.rpartition("-")[2])
    checked = pads.ParquetFileFormat(
        default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    try:
        parquet = pads.dataset(
            storage.full(file.path),
            format=checked,
            filesystem=LocalFileSystem() if storage.is_local else storage.filesystem,
        )
        columns = None if names is None else [name for name in names if name in parquet.schema.names]

        def read(group: pads.Fragment) -> pa.Table:
            return group.to_table(columns=columns, filter=expression, use_threads=False)

        # Row group by row group, since a scanner would hold much of the file in advance.
        groups = [group for whole in parquet.get_fragments() for group in whole.split_by_row_group(expression)]
        for table in prefetch(read, groups, concurrency=_GROUPS_AT_ONCE):
            if len(table):
                rows = conform(table, dimension)
                yield rows if names is None else rows.select(names)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"{storage.uri(file.path)} cannot be read ({redact(str(error))}). If it is damaged, delete "
            f"{storage.uri(MANIFEST)} and build embeddings_table again."
        ) from None


def _may_hold(file: SnapshotFile, media: list[str] | None, excluded: set[str]) -> bool:
    if file.first_media == file.last_media and file.first_media in excluded:
        return False
    if media is None:
        return True
    position = bisect_left(media, file.first_media)
    return position < len(media) and media[position] <= file.last_media


def _with_space(table: pa.Table, space: str) -> pa.Table:
    import pyarrow as pa

    return table.append_column(pa.field("space", pa.string(), nullable=False), pa.repeat(space, len(table)))


def _plain_lists(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    fields = [
        field.with_type(pa.list_(pa.float32())) if pa.types.is_fixed_size_list(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))
