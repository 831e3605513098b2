"""The jobs that sensors, the schedule and people launch, and the schedule."""

from __future__ import annotations

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.manual_jobs import build_manual_jobs


def build_jobs(blueprint: Blueprint) -> list[UnresolvedAssetJobDefinition | dg.JobDefinition]:
    """The jobs ``submit_embedding_tasks`` and ``collect_embeddings``, and those for people.

    They run in one process: starting one for each step costs more than the steps.
    """
    names = blueprint.names
    return [
        dg.define_asset_job(
            names.submit_job,
            # The checks of its tasks look at the whole library; they run with embeddings_table.
            selection=dg.AssetSelection.assets(names.embedding_tasks).without_checks(),
            executor_def=dg.in_process_executor,
            description="Creates an embedding task for each media file that has none, and never waits for it.",
        ),
        dg.define_asset_job(
            names.collect_job,
            selection=dg.AssetSelection.assets(names.segment_embeddings),
            executor_def=dg.in_process_executor,
            description="Writes the segments of tasks that are ready to the dataset.",
        ),
        *build_manual_jobs(blueprint),
    ]


def build_daily_embedding_schedule(blueprint: Blueprint) -> dg.ScheduleDefinition:
    """The schedule ``daily_embedding_schedule``: one run that submits whatever is due, within the limits of minutes."""
    names, policy = blueprint.names, blueprint.policy

    @dg.schedule(
        name=names.plain("daily_embedding_schedule"),
        job_name=names.submit_new_job,
        cron_schedule=policy.schedule_cron,
        execution_timezone=policy.schedule_timezone,
        description="Submits every media file that is new, changed, of other settings, or may be tried again.",
    )
    def daily_embedding_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        # The run looks for what is due itself: it has the time to read every event and to count minutes to the end.
        if not context.instance.get_dynamic_partitions(names.partitions):
            return dg.SkipReason("There are no media files yet.")
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return daily_embedding_schedule
