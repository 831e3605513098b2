"""The Parquet dataset of segments: schema, atomic writer, reader, compaction, exact search and publishing.

This room knows nothing of Dagster, of the platform or of the emulator: it takes plain values and arrays.
"""

from __future__ import annotations

from embed_pipeline.dataset.codec import ParquetEncoding
from embed_pipeline.dataset.duplicates import DuplicatePair, near_duplicates
from embed_pipeline.dataset.embedding_dataset import EmbeddingDataset
from embed_pipeline.dataset.outcomes import MediaOutcome
from embed_pipeline.dataset.reading import read_embeddings, stream_embeddings
from embed_pipeline.dataset.results import DamagedFile, StoredResult
from embed_pipeline.dataset.schema import (
    KEY_COLUMNS,
    SCHEMA_VERSION,
    DamagedFileError,
    column_descriptions,
    segment_schema,
)
from embed_pipeline.dataset.search import Match, MediaQuery, SegmentQuery, nearest
from embed_pipeline.dataset.segments import MediaSegments, media_fragment, segment_id, vector_space
from embed_pipeline.dataset.store import SegmentFile, WrittenFile
from embed_pipeline.dataset.table.lance import PublishedTable, publish_lance
from embed_pipeline.dataset.table.snapshot import Snapshot, SnapshotFile

__all__ = [
    "KEY_COLUMNS",
    "SCHEMA_VERSION",
    "DamagedFile",
    "DamagedFileError",
    "DuplicatePair",
    "EmbeddingDataset",
    "Match",
    "MediaOutcome",
    "MediaQuery",
    "MediaSegments",
    "ParquetEncoding",
    "PublishedTable",
    "SegmentFile",
    "SegmentQuery",
    "Snapshot",
    "SnapshotFile",
    "StoredResult",
    "WrittenFile",
    "column_descriptions",
    "media_fragment",
    "near_duplicates",
    "nearest",
    "publish_lance",
    "read_embeddings",
    "segment_id",
    "segment_schema",
    "stream_embeddings",
    "vector_space",
]
