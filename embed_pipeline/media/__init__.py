"""Media libraries: files, partition keys, fingerprints, lengths, and the platform's limits. Without Dagster."""

from __future__ import annotations

from embed_pipeline.media.bounds import (
    PlatformLimits,
    format_duration,
    platform_limits,
    undocumented_format,
    violation,
)
from embed_pipeline.media.files import DEFAULT_EXTENSIONS, LeftOut, Listing, MediaFile, MediaInfo, MediaType
from embed_pipeline.media.keys import decode_partition_key, encode_partition_key, printable_path
from embed_pipeline.media.library import MediaLibrary
from embed_pipeline.media.samples import BROKEN_SAMPLE, write_sample_library

__all__ = [
    "BROKEN_SAMPLE",
    "DEFAULT_EXTENSIONS",
    "LeftOut",
    "Listing",
    "MediaFile",
    "MediaInfo",
    "MediaLibrary",
    "MediaType",
    "PlatformLimits",
    "decode_partition_key",
    "encode_partition_key",
    "format_duration",
    "platform_limits",
    "printable_path",
    "undocumented_format",
    "violation",
    "write_sample_library",
]
