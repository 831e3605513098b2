"""Assets: uploads of media to the platform, in one request or in parts."""

from __future__ import annotations

from embed_pipeline.client.assets.clients import (
    AssetsClient,
    AsyncAssetsClient,
    AsyncMultipartUploadClient,
    MultipartUploadClient,
)
from embed_pipeline.client.assets.multipart import Upload
from embed_pipeline.client.assets.operations import Asset

__all__ = [
    "Asset",
    "AssetsClient",
    "AsyncAssetsClient",
    "AsyncMultipartUploadClient",
    "MultipartUploadClient",
    "Upload",
]
