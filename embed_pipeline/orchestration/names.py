"""What things are called in Dagster: the names that other teams rely on, in one place."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

POOL = "embedding_api"


@dataclass(frozen=True)
class PipelineNames:
    """The Dagster names of one pipeline; a second pipeline in the same code location sets ``name`` to keep them apart.

    Args:
        name: Put before every asset key as a prefix and before every other name with an underscore. None for the
            plain names.
    """

    name: str | None = None

    def asset_key(self, base: str) -> dg.AssetKey:
        """The key of the asset ``base``."""
        return dg.AssetKey([self.name, base]) if self.name else dg.AssetKey(base)

    def plain(self, base: str) -> str:
        """The name of anything that is not an asset: a job, a sensor, a resource, a partitions definition."""
        return f"{self.name}_{base}" if self.name else base

    @property
    def media_files(self) -> dg.AssetKey:
        """The external asset of the media files."""
        return self.asset_key("media_files")

    @property
    def embedding_tasks(self) -> dg.AssetKey:
        """The asset whose partitions are the platform's tasks."""
        return self.asset_key("embedding_tasks")

    @property
    def segment_embeddings(self) -> dg.AssetKey:
        """The asset whose partitions are the segments written to the dataset."""
        return self.asset_key("segment_embeddings")

    @property
    def embeddings_table(self) -> dg.AssetKey:
        """The asset of the compacted snapshot."""
        return self.asset_key("embeddings_table")

    @property
    def partitions(self) -> str:
        """The dynamic partitions: one key for each media file."""
        return self.plain("media")

    @property
    def submit_job(self) -> str:
        """The job that creates embedding tasks."""
        return self.plain("submit_embedding_tasks")

    @property
    def collect_job(self) -> str:
        """The job that collects the results of ready tasks."""
        return self.plain("collect_embeddings")

    @property
    def retry_job(self) -> str:
        """The job that retries what failed or expired."""
        return self.plain("retry_failed_embeddings")

    @property
    def submission_tag(self) -> str:
        """The run tag that says whether a run which creates tasks has accounted for all of them."""
        return f"embed_pipeline/{self.plain('submission')}"

    @property
    def left_for_later_tag(self) -> str:
        """The run tag of a run that left media files for later."""
        return f"embed_pipeline/{self.plain('left_for_later')}"

    @property
    def submission_lock(self) -> str:
        """The concurrency key that lets one run at a time create tasks for this pipeline."""
        return self.plain("embedding_submission")
