"""What is told of a media file besides its tasks: its content, and why it has no result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.versions import RETIRED, Outcome, version_tags
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from embed_pipeline.media import MediaFile


def media_observation(names: PipelineNames, file: MediaFile, version: str) -> dg.AssetObservation:
    """The event that tells a media file's content: its fingerprint as the data version."""
    return dg.AssetObservation(
        names.media_files, partition=file.key, metadata=_media_metadata(file), tags=version_tags(version)
    )


def media_materialization(names: PipelineNames, file: MediaFile, version: str) -> dg.AssetMaterialization:
    """The same told once more, for people: Dagster's UI calls a partition that was only ever observed missing.

    Nothing reads it back. Dagster judges staleness downstream of an external asset by observations alone.
    """
    return dg.AssetMaterialization(
        names.media_files, partition=file.key, metadata=_media_metadata(file), tags=version_tags(version)
    )


def _media_metadata(file: MediaFile) -> dict[str, Any]:
    return {
        "dagster/uri": without_credentials(file.uri),
        "embed_pipeline/path": file.path,
        "embed_pipeline/media_type": file.media_type,
        **({} if file.size is None else {"dagster/size_bytes": file.size}),
    }


def outcome_observation(names: PipelineNames, key: str, outcome: Outcome, message: str) -> dg.AssetObservation:
    """The event that tells why a media file has no result, with the words of whoever refused it."""
    return dg.AssetObservation(
        names.embedding_tasks,
        partition=key,
        metadata={
            "embed_pipeline/error": message,
            "embed_pipeline/state": outcome.state.value,
            "embed_pipeline/attempt": outcome.attempt,
        },
        tags=version_tags(str(outcome)),
    )


def retirement(names: PipelineNames, key: str) -> dg.AssetMaterialization:
    """The event that tells that the dataset has nothing of a media file any more, because the file is gone."""
    return dg.AssetMaterialization(
        names.segment_embeddings,
        partition=key,
        description="The media file is gone, and its segments were removed with it.",
        metadata={"embed_pipeline/state": "retired", "dagster/partition_row_count": 0},
        tags=version_tags(RETIRED),
    )
