"""The jobs that sensors, the schedule and people launch, and the schedule."""

from __future__ import annotations

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.due import due_for_submission
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.ranges import contiguous_ranges


def build_jobs(blueprint: Blueprint) -> list[UnresolvedAssetJobDefinition]:
    """The jobs ``submit_embedding_tasks`` and ``collect_embeddings``.

    They run in one process: starting one for each step costs more than the steps.
    """
    names = blueprint.names
    return [
        dg.define_asset_job(
            names.submit_job,
            selection=dg.AssetSelection.assets(names.embedding_tasks),
            executor_def=dg.in_process_executor,
            description="Creates an embedding task for each media file that has none, and never waits for it.",
        ),
        dg.define_asset_job(
            names.collect_job,
            selection=dg.AssetSelection.assets(names.segment_embeddings),
            executor_def=dg.in_process_executor,
            description="Writes the segments of tasks that are ready to the dataset.",
        ),
    ]


def build_daily_embedding_schedule(blueprint: Blueprint) -> dg.ScheduleDefinition:
    """The schedule ``daily_embedding_schedule``: submits whatever is new, changed or may be tried again."""
    names, policy = blueprint.names, blueprint.policy

    @dg.schedule(
        name=names.plain("daily_embedding_schedule"),
        job_name=names.submit_job,
        cron_schedule=policy.schedule_cron,
        execution_timezone=policy.schedule_timezone,
        description="Submits every media file that is new, has changed, or whose task may be tried again.",
    )
    def daily_embedding_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        ledger = Ledger(context.instance, names)
        order = ledger.partitions()
        due = due_for_submission(
            order,
            ledger.media_versions(),
            ledger.media_event_ids(),
            ledger.task_event_ids(),
            ledger.task_versions(),
            ledger.outcomes(),
            max_attempts=policy.max_attempts,
        )
        ranges = contiguous_ranges(due, order, policy.partitions_per_run)
        if not ranges:
            return dg.SkipReason(f"None of {len(order)} media files is due for submission.")
        return [
            dg.RunRequest(run_key=f"{context.scheduled_execution_time.isoformat()}:{some.keys[0]}", tags=some.tags)
            for some in ranges
        ]

    return daily_embedding_schedule
