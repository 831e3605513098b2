"""The definitions of one pipeline, built from its blueprint."""

from __future__ import annotations

import warnings

import dagster as dg

from embed_pipeline.orchestration.assets import build_assets
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.checks import build_task_checks
from embed_pipeline.orchestration.discovery import build_media_discovery_sensor
from embed_pipeline.orchestration.jobs import build_daily_embedding_schedule, build_jobs
from embed_pipeline.orchestration.pipelines import blueprint_metadata
from embed_pipeline.orchestration.readiness import build_embedding_ready_sensor
from embed_pipeline.orchestration.table import build_embeddings_table_sensor, build_refresh_job


def build_definitions(blueprint: Blueprint) -> dg.Definitions:
    """Everything that Dagster loads for one pipeline: assets, jobs, sensors, the schedule and the resources."""
    with warnings.catch_warnings():
        # Backfill policies are marked as beta since 2023, and without them each media file would cost a run.
        warnings.simplefilter("ignore", dg.BetaWarning)
        assets = build_assets(blueprint)
    return dg.Definitions(
        assets=assets,
        asset_checks=[build_task_checks(blueprint)],
        jobs=[*build_jobs(blueprint), build_refresh_job(blueprint)],
        schedules=[build_daily_embedding_schedule(blueprint)],
        sensors=[
            build_media_discovery_sensor(blueprint=blueprint),
            build_embedding_ready_sensor(blueprint=blueprint),
            build_embeddings_table_sensor(blueprint=blueprint),
        ],
        resources=blueprint.resources,
        executor=dg.in_process_executor,
        # For whoever loads the code location to work on its pipelines, as the command line does.
        metadata=blueprint_metadata(blueprint),
    )
