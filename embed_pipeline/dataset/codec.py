"""Between a `MediaSegments` value and the bytes of its Parquet file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from embed_pipeline.dataset.schema import FileFacts, conform, segment_schema
from embed_pipeline.dataset.segments import MediaSegments
from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from embed_pipeline.dataset.encoding import ParquetEncoding
    from embed_pipeline.dataset.schema import Layout


def to_table(segments: MediaSegments, layout: Layout = "fixed") -> pa.Table:
    """Turns segments into rows, sorted by option, scope and start, with the file's metadata.

    Args:
        segments: One media file's segments.
        layout: How vectors are typed.

    Returns:
        A table of the dataset's schema; a nullable column of which the segments hold nothing is left out.
    """
    import numpy as np
    import pyarrow as pa

    rows = len(segments)
    options, scopes = np.asarray(segments.embedding_option), np.asarray(segments.embedding_scope)
    order = np.lexsort((segments.end_sec, segments.start_sec, scopes, options))
    options, scopes = options[order], scopes[order]
    values: dict[str, Any] = {
        "segment_id": np.asarray(segments.segment_ids)[order],
        "embedding_option": options,
        "embedding_scope": scopes,
        "segment_index": _positions(options, scopes),
        "start_sec": segments.start_sec[order],
        "end_sec": segments.end_sec[order],
    }
    constants = {
        "media": segments.media,
        "media_uri": segments.media_uri,
        "fingerprint": segments.fingerprint,
        "media_type": segments.media_type,
        "model_name": segments.model_name,
        "settings_digest": segments.settings_digest,
        "task_id": segments.task_id,
        "created_at": segments.created_at,
    }
    vectors = {"embedding": segments.embedding, "embedding_uncertainty": segments.embedding_uncertainty}
    fields, columns = [], []
    for field in segment_schema(segments.dimension, layout):
        if field.name in constants:
            column = pa.repeat(pa.scalar(constants[field.name], field.type), rows)
        elif field.name in values:
            column = pa.array(values[field.name], field.type)
        elif (vector := vectors.get(field.name)) is not None:
            column = _vectors(vector[order], field.type)
        else:
            # Several readers cannot take a column of fixed-size lists that holds nulls; none misses one that is absent.
            continue
        fields.append(field)
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields, facts_of(segments).to_metadata()))


def facts_of(segments: MediaSegments) -> FileFacts:
    """Returns what the file of these segments says about itself."""
    return FileFacts(
        model=segments.model_name,
        dimension=segments.dimension,
        space=segments.space,
        settings=segments.settings,
        settings_digest=segments.settings_digest,
        media=segments.media,
        duration_sec=segments.duration_sec,
    )


def encode(table: pa.Table, encoding: ParquetEncoding) -> memoryview:
    """Writes a table to the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=encoding.row_group_rows, **encoding.writer_options())
    return memoryview(sink.getvalue())


def facts(data: bytes, path: str) -> FileFacts:
    """Reads what the bytes of a Parquet file say about it.

    Raises:
        DatasetError: The file is damaged or not one of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(pa.BufferReader(data)).metadata
    except pa.ArrowInvalid as error:
        raise _damaged(path, error) from None
    return FileFacts.from_metadata(metadata, path)


def decode(
    data: bytes, path: str, *, columns: Sequence[str] | None = None, filters: pa.compute.Expression | None = None
) -> tuple[pa.Table, FileFacts]:
    """Reads the bytes of one media file's Parquet file.

    Args:
        data: The whole file.
        path: The file, for errors.
        columns: Columns to read; None is all.
        filters: Rows to keep; None is all.

    Returns:
        The rows in the present schema, and what the file says about itself.

    Raises:
        DatasetError: The file is damaged or not one of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pa.BufferReader(data)
        schema = pq.read_schema(source)
        wanted = None if columns is None else [name for name in columns if name in schema.names]
        table = pq.read_table(source, columns=wanted, filters=filters)
    except pa.ArrowInvalid as error:
        raise _damaged(path, error) from None
    about = FileFacts.from_metadata(schema.metadata, path)
    return conform(table, about.dimension), about


def from_table(table: pa.Table, about: FileFacts) -> MediaSegments:
    """Turns the rows of one media file back into a value.

    Args:
        table: All rows and columns of one media file.
        about: What its file says about itself.
    """

    def first(name: str) -> Any:
        return table.column(name)[0].as_py()

    return MediaSegments(
        media=first("media"),
        media_uri=first("media_uri"),
        fingerprint=first("fingerprint"),
        media_type=first("media_type"),
        duration_sec=about.duration_sec,
        embedding_option=table.column("embedding_option").to_pylist(),
        embedding_scope=table.column("embedding_scope").to_pylist(),
        start_sec=table.column("start_sec").to_numpy(),
        end_sec=table.column("end_sec").to_numpy(),
        embedding=matrix(table.column("embedding"), about.dimension),
        embedding_uncertainty=(
            matrix(table.column("embedding_uncertainty"), about.dimension)
            if table.column("embedding_uncertainty").null_count == 0
            else None
        ),
        model_name=first("model_name"),
        space=about.space,
        settings=json.loads(json.dumps(about.settings)),
        settings_digest=first("settings_digest"),
        task_id=first("task_id"),
        created_at=first("created_at"),
    )


def matrix(column: pa.ChunkedArray, dimension: int) -> NDArray[np.float32]:
    """Views a column of vectors as one (n, dimension) float32 array; copies only where there are several chunks."""
    import numpy as np

    if not len(column):
        return np.empty((0, dimension), np.float32)
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _vectors(vectors: NDArray[np.float32], kind: pa.DataType) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    rows, dimension = vectors.shape
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float32())
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * dimension, pa.int32()), flat, type=kind)


def _positions(options: NDArray[np.str_], scopes: NDArray[np.str_]) -> NDArray[np.int32]:
    """Counts from 0 within each run of equal option and scope; the rows are sorted by them."""
    import numpy as np

    rows = np.arange(len(options))
    begins = np.ones(len(options), bool)
    begins[1:] = (options[1:] != options[:-1]) | (scopes[1:] != scopes[:-1])
    return (rows - np.maximum.accumulate(np.where(begins, rows, 0))).astype(np.int32)


def _damaged(path: str, error: Exception) -> DatasetError:
    return DatasetError(f"{path} is no readable Parquet file ({error}). Delete it and collect that media file again.")
