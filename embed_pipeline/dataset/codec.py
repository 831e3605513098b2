"""Encoding of rows as bytes of Parquet files, and back.

The defaults of `ParquetEncoding` are those that `benchmarks/dataset_encodings.py` measured to suit every reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from embed_pipeline.dataset.schema import DamagedFileError, FileMetadata, conform

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

    from embed_pipeline.dataset.schema import Layout

# Words that repeat from row to row; numbers and ids only grow with a dictionary.
_REPEATING = [
    "media",
    "media_uri",
    "fingerprint",
    "media_type",
    "embedding_option",
    "embedding_scope",
    "model_name",
    "settings_digest",
    "task_id",
    "created_at",
]
_MAGIC = b"PAR1"
_TRAILER_BYTES = 8


@dataclass(frozen=True)
class ParquetEncoding:
    """Layout of rows in Parquet files.

    Args:
        layout: `fixed` types vectors as fixed-size lists; `list` as plain lists, for readers such as ClickHouse that
            cannot take the former.
        compression: The codec of all columns.
        compression_level: The codec's level; None is its own default.
        byte_stream_split: Stores the bytes of vectors by significance, which makes files about 8 % smaller; not every
            reader knows it (Spark's fast path does not).
        row_group_rows: Rows of a row group: the least that a reader must read to get at one row.
    """

    layout: Layout = "fixed"
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    compression_level: int | None = 1
    byte_stream_split: bool = False
    row_group_rows: int = 10_000

    def writer_options(self) -> dict[str, Any]:
        """Return the keyword arguments of `pyarrow.parquet.ParquetWriter` and `write_table`."""
        options: dict[str, Any] = {
            "compression": self.compression,
            "use_dictionary": _REPEATING,
            # A changed bit is found when it is read; readers that know no checksums skip them.
            "write_page_checksum": True,
        }
        if self.compression_level is not None and self.compression in {"zstd", "gzip"}:
            options["compression_level"] = self.compression_level
        if self.byte_stream_split:
            options["use_byte_stream_split"] = [
                f"{name}.list.element" for name in ("embedding", "embedding_uncertainty")
            ]
        return options


def encode(table: pa.Table, encoding: ParquetEncoding) -> memoryview:
    """Write a table to the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=encoding.row_group_rows, **encoding.writer_options())
    return memoryview(sink.getvalue())


def decode(
    source: pa.NativeFile,
    path: str,
    *,
    columns: Sequence[str] | None = None,
    filters: pa.compute.Expression | None = None,
) -> tuple[pa.Table, FileMetadata]:
    """Read the Parquet file of one media file, and verify the checksums of what is read.

    Args:
        source: The file, opened.
        path: The file, for errors.
        columns: Columns to read; None is all.
        filters: Rows to keep; None is all.

    Returns:
        The rows in the present schema, and the file's metadata.

    Raises:
        DamagedFileError: The file is damaged or not one of the dataset.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(source)
        metadata = FileMetadata.decode(schema.metadata, path)
        wanted = None if columns is None else [name for name in columns if name in schema.names]
        table = pq.read_table(source, columns=wanted, filters=filters, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None
    return conform(table, metadata.dimension), metadata


def footer_bytes(end: bytes) -> int | None:
    """Return the bytes from the start of a Parquet file's footer to the end of the file, from the file's last bytes.

    Args:
        end: At least the last eight bytes of the file.

    Returns:
        The count; None if this is not the end of a Parquet file.
    """
    if len(end) < _TRAILER_BYTES or not end.endswith(_MAGIC):
        return None
    return int.from_bytes(end[-_TRAILER_BYTES : -len(_MAGIC)], "little") + _TRAILER_BYTES


def parse_footer(end: bytes, path: str) -> pq.FileMetaData:
    """Parse the footer of a Parquet file without the rest of the file.

    Args:
        end: The last bytes of the file, the whole footer among them.
        path: The file, for the error.

    Raises:
        DamagedFileError: The footer is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    length = footer_bytes(end)
    if length is None or length > len(end):
        raise damaged(path, "it does not end with a Parquet footer")
    try:
        # The parser wants a file; a footer behind the magic number is one of no data.
        return pq.read_metadata(pa.BufferReader(_MAGIC + end[-length:]))
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def matrix(column: pa.ChunkedArray, dimension: int) -> NDArray[np.float32]:
    """View a column of vectors as one (n, dimension) float32 array; copies only where there are several chunks."""
    import numpy as np

    if not len(column):
        return np.empty((0, dimension), np.float32)
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def damaged(path: str, problem: object) -> DamagedFileError:
    """Return the error for a file that holds no readable rows.

    Args:
        path: The file.
        problem: The damage, as a clause.
    """
    return DamagedFileError(f"{path} is damaged ({problem}). Delete it and collect that media file again.")
