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
    def submit_new_job(self) -> str:
        """The job that submits whatever is due."""
        return self.plain("submit_new_media")

    @property
    def force_job(self) -> str:
        """The job that pays for a new task, whatever a media file has."""
        return self.plain("force_new_task")

    @property
    def plan_job(self) -> str:
        """The job that tells what a submission would create."""
        return self.plain("plan_embedding_tasks")

    @property
    def retire_job(self) -> str:
        """The job that removes what vanished."""
        return self.plain("retire_vanished_media")

    @property
    def refresh_job(self) -> str:
        """The job that builds the next snapshot of the table."""
        return self.plain("refresh_embeddings_table")

    @property
    def choosing_jobs(self) -> tuple[str, ...]:
        """The jobs that create tasks for media files which they choose themselves, not by the run's partitions."""
        return (self.submit_new_job, self.retry_job, self.force_job)

    @property
    def jobs(self) -> frozenset[str]:
        """All jobs of the pipeline; each does all of its work in one process."""
        return frozenset(
            {self.submit_job, self.collect_job, self.refresh_job, self.plan_job, self.retire_job, *self.choosing_jobs}
        )

    @property
    def assets(self) -> frozenset[dg.AssetKey]:
        """The assets that runs materialize."""
        return frozenset({self.embedding_tasks, self.segment_embeddings, self.embeddings_table})

    @property
    def task_checks(self) -> str:
        """The step that checks the tasks of the whole library."""
        return self.plain("embedding_task_checks")

    @property
    def steps(self) -> frozenset[str]:
        """The steps of runs that are the pipeline's own: its assets, its checks, and its jobs of one step."""
        of_assets = {key.to_python_identifier() for key in self.assets}
        return frozenset({*of_assets, self.task_checks, self.plan_job, self.retire_job, *self.choosing_jobs})

    @property
    def process_tag(self) -> str:
        """The run tag that names the process which works on a run; Dagster's UI hides tags that begin so."""
        return f".dagster/embed_pipeline/{self.plain('process')}"

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
