"""How rows are laid out in Parquet files: the choices that `benchmarks/dataset_encodings.py` measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class ParquetEncoding:
    """The choices that a writer has; the defaults suit every reader that was tried.

    Args:
        layout: `fixed` types vectors as fixed-size lists; `list` as plain lists, for readers such as ClickHouse that
            cannot take the former.
        compression: The codec of all columns.
        compression_level: The codec's level; None is its own default.
        byte_stream_split: Stores the bytes of vectors by significance, which makes files about 8 % smaller; not every
            reader knows it (Spark's fast path does not).
        row_group_rows: Rows of a row group: what a reader must read to get at one row.
    """

    layout: Layout = "fixed"
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    compression_level: int | None = 1
    byte_stream_split: bool = False
    row_group_rows: int = 10_000

    def writer_options(self) -> dict[str, Any]:
        """Returns the keyword arguments of `pyarrow.parquet.ParquetWriter` and `write_table`."""
        options: dict[str, Any] = {"compression": self.compression, "use_dictionary": _REPEATING}
        if self.compression_level is not None and self.compression in {"zstd", "gzip"}:
            options["compression_level"] = self.compression_level
        if self.byte_stream_split:
            options["use_byte_stream_split"] = [
                f"{name}.list.element" for name in ("embedding", "embedding_uncertainty")
            ]
        return options
