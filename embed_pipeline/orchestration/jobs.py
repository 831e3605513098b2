"""The jobs that sensors, the schedule and people launch, and the schedule."""

from __future__ import annotations

from datetime import UTC

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.manual_jobs import build_manual_jobs
from embed_pipeline.orchestration.ranges import RANGE_START_TAG
from embed_pipeline.orchestration.submission_requests import SubmissionPlanner


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
    """The schedule ``daily_embedding_schedule``: submits whatever is new, changed or may be tried again."""
    names, policy = blueprint.names, blueprint.policy

    @dg.schedule(
        name=names.plain("daily_embedding_schedule"),
        job_name=names.submit_job,
        cron_schedule=policy.schedule_cron,
        execution_timezone=policy.schedule_timezone,
        required_resource_keys={blueprint.library_key},
        description="Submits every media file that is new, has changed, or whose task may be tried again.",
    )
    def daily_embedding_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        order = Ledger(context.instance, names).partitions()
        requests = SubmissionPlanner(
            blueprint=blueprint,
            instance=context.instance,
            library=blueprint.library_resource(context.resources).library(),
            now=context.scheduled_execution_time.astimezone(UTC),
            budget_sec=policy.tick_budget_sec,
        ).request(order, has_cursor=False)
        told = "; ".join([f"{len(order)} media files", *requests.notes, f"{requests.later} wait for their turn"])
        context.log.info(told)
        if not requests.ranges:
            return dg.SkipReason(f"Nothing is submitted: {told}.")
        at = context.scheduled_execution_time.isoformat()
        return [dg.RunRequest(run_key=f"{at}:{tags[RANGE_START_TAG]}", tags=dict(tags)) for tags in requests.ranges]

    return daily_embedding_schedule
