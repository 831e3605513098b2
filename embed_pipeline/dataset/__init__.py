"""The Parquet dataset of segments: schema, atomic writer, reader, compaction and exact search.

This room knows nothing of Dagster, of the platform or of the emulator: it takes plain values and arrays.
"""

from __future__ import annotations

from embed_pipeline.dataset.duplicates import DuplicatePair, near_duplicates
from embed_pipeline.dataset.encoding import ParquetEncoding
from embed_pipeline.dataset.outcomes import MediaOutcome
from embed_pipeline.dataset.reading import read_embeddings, stream_embeddings
from embed_pipeline.dataset.schema import SCHEMA_VERSION, column_descriptions, segment_schema
from embed_pipeline.dataset.search import Match, MediaQuery, SegmentQuery, nearest
from embed_pipeline.dataset.segments import MediaSegments, media_fragment, segment_id, vector_space
from embed_pipeline.dataset.snapshot import Snapshot, SnapshotFile
from embed_pipeline.dataset.store import EmbeddingDataset, SegmentFile, WrittenFile

__all__ = [
    "SCHEMA_VERSION",
    "DuplicatePair",
    "EmbeddingDataset",
    "Match",
    "MediaOutcome",
    "MediaQuery",
    "MediaSegments",
    "ParquetEncoding",
    "SegmentFile",
    "SegmentQuery",
    "Snapshot",
    "SnapshotFile",
    "WrittenFile",
    "column_descriptions",
    "media_fragment",
    "near_duplicates",
    "nearest",
    "read_embeddings",
    "segment_id",
    "segment_schema",
    "stream_embeddings",
    "vector_space",
]
