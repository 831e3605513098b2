"""The assets: media_files, embedding_tasks and segment_embeddings, wired to what does their work."""

# No deferred annotations here: Dagster reads the class of a step's config from its signature.

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.collection import Collection, CollectionReport
from embed_pipeline.orchestration.events import (
    NOTHING,
    event_logger,
    failure,
    output_without_events,
    targeted_partitions,
)
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.names import POOL
from embed_pipeline.orchestration.open_submissions import open_submission, settle_submission
from embed_pipeline.orchestration.submission import Submission, SubmissionReport
from embed_pipeline.orchestration.submission_lock import submission_lock

_LOCK_WAIT_SEC = 3600.0


class SubmissionConfig(dg.Config):
    """How a run of embedding_tasks treats files that have a task already."""

    force: bool = Field(False, description="Create a new task even for files that have one. Costs their minutes again.")
    retry_failed: bool = Field(False, description="Create a new task for files whose task failed or expired for good.")


def build_assets(blueprint: Blueprint) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets of one pipeline."""
    return [
        media_files_spec(blueprint),
        build_embedding_tasks(blueprint),
        build_segment_embeddings(blueprint),
    ]


def media_files_spec(blueprint: Blueprint) -> dg.AssetSpec:
    """The external asset that stands for the media library: one partition for each file."""
    return dg.AssetSpec(
        blueprint.names.media_files,
        description=(
            "The audio and video files of the media library, one partition each. Discovery observes a partition when "
            "its file is new, has changed or has vanished; its data version is the fingerprint of the content."
        ),
        partitions_def=blueprint.partitions_def,
        group_name=blueprint.group_name,
        owners=list(blueprint.owners),
        kinds={"file"},
    )


def build_embedding_tasks(blueprint: Blueprint) -> dg.AssetsDefinition:
    """The asset that creates one embedding task for each media file, and never waits for it."""
    names = blueprint.names

    @dg.asset(
        key=names.embedding_tasks,
        deps=[names.media_files],
        description=(
            "The platform's asynchronous tasks, one for each media file. A partition is materialized the moment its "
            "task is created, or when a task that exists already is found to serve it; its data version is the task id."
        ),
        partitions_def=blueprint.partitions_def,
        backfill_policy=blueprint.backfill_policy,
        dagster_type=NOTHING,
        code_version=blueprint.settings.code_version,
        group_name=blueprint.group_name,
        owners=list(blueprint.owners),
        kinds={"twelvelabs"},
        pool=POOL,
        required_resource_keys={blueprint.client_key, blueprint.library_key},
    )
    def embedding_tasks(context: dg.AssetExecutionContext, config: SubmissionConfig) -> Iterator[dg.Output[None]]:
        keys = targeted_partitions(context)
        resource = blueprint.client_resource(context.resources)
        run_id = context.run.run_id
        with (
            submission_lock(
                context.instance,
                names.submission_lock,
                run_id,
                longest_wait_sec=_LOCK_WAIT_SEC,
                on_wait=context.log.info,
            ),
            resource.client() as client,
        ):
            open_submission(context.instance, names, run_id)
            report = Submission(
                names=names,
                ledger=Ledger(context.instance, names),
                instance=context.instance,
                library=blueprint.library_resource(context.resources).library(),
                client=client,
                settings=blueprint.settings,
                policy=blueprint.policy,
                platform=resource.platform,
                delivery=resource.delivery,
                run_id=run_id,
                root_run_id=context.run.root_run_id or run_id,
                code_version=blueprint.settings.code_version,
                log_event=event_logger(context),
                log=context.log.info,
                concurrency=resource.concurrency,
            ).run(keys, force=config.force, retry_failed=config.retry_failed)
            if report.settled:
                settle_submission(context.instance, names, run_id)
        context.log.info(_submission_headline(report))
        for key, reason in report.held.items():
            context.log.info(f"{key} is left for later: {reason}")
        if report.failed or report.stopped:
            raise failure(report.stopped or _submission_headline(report), report.failed, _submission_numbers(report))
        yield output_without_events()

    return embedding_tasks


def build_segment_embeddings(blueprint: Blueprint) -> dg.AssetsDefinition:
    """The asset that writes every segment's vector to the dataset once its task is ready."""
    names = blueprint.names

    @dg.asset(
        key=names.segment_embeddings,
        deps=[names.embedding_tasks],
        description=(
            "Every segment's vector with its start and end offset, in one Parquet file for each media file. A "
            "partition is materialized when its task's result is in the dataset; its data version is that task's id."
        ),
        partitions_def=blueprint.partitions_def,
        backfill_policy=blueprint.backfill_policy,
        dagster_type=NOTHING,
        code_version=blueprint.settings.code_version,
        group_name=blueprint.group_name,
        owners=list(blueprint.owners),
        kinds={"parquet"},
        pool=POOL,
        required_resource_keys={blueprint.client_key, blueprint.store_key},
    )
    def segment_embeddings(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None]]:
        keys = targeted_partitions(context)
        with blueprint.client_resource(context.resources).client() as client:
            report = Collection(
                names=names,
                ledger=Ledger(context.instance, names),
                client=client,
                dataset=blueprint.store_resource(context.resources).dataset(),
                settings=blueprint.settings,
                policy=blueprint.policy,
                code_version=blueprint.settings.code_version,
                log_event=event_logger(context),
                log=context.log.info,
            ).run(keys)
        context.log.info(_collection_headline(report))
        problems = report.failed | {
            key: f"task {task_id} was still processing when the wait was over; the sensor collects it when it is ready"
            for key, task_id in report.processing.items()
        }
        if problems or report.stopped:
            raise failure(report.stopped or _collection_headline(report), problems, {})
        yield output_without_events()

    return segment_embeddings


def _submission_headline(report: SubmissionReport) -> str:
    return (
        f"{report.count('created')} tasks created ({report.minutes:.1f} media minutes), "
        f"{report.count('re-attached')} re-attached, {report.count('adopted')} adopted, "
        f"{len(report.held)} left for later, {len(report.failed)} failed."
    )


def _submission_numbers(report: SubmissionReport) -> dict[str, Any]:
    return {
        "embed_pipeline/created": report.count("created"),
        "embed_pipeline/re_attached": report.count("re-attached"),
        "embed_pipeline/adopted": report.count("adopted"),
        "embed_pipeline/held": len(report.held),
        "embed_pipeline/failed": len(report.failed),
        "embed_pipeline/minutes": round(report.minutes, 3),
    }


def _collection_headline(report: CollectionReport) -> str:
    return (
        f"{len(report.collected)} media files collected with {report.segments} segments, "
        f"{len(report.processing)} still processing, {len(report.failed)} failed."
    )
