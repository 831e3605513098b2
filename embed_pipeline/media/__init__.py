"""What is to be embedded: media libraries, their files, partition keys and fingerprints. Knows nothing of Dagster."""

from __future__ import annotations

from embed_pipeline.media.files import DEFAULT_EXTENSIONS, Listing, MediaFile, MediaInfo, MediaType
from embed_pipeline.media.keys import decode_partition_key, encode_partition_key
from embed_pipeline.media.library import MediaLibrary
from embed_pipeline.media.samples import BROKEN_SAMPLE, write_sample_library

__all__ = [
    "BROKEN_SAMPLE",
    "DEFAULT_EXTENSIONS",
    "Listing",
    "MediaFile",
    "MediaInfo",
    "MediaLibrary",
    "MediaType",
    "decode_partition_key",
    "encode_partition_key",
    "write_sample_library",
]
