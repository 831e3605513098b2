"""The assets: media_files, embedding_tasks and segment_embeddings, wired to what does their work."""

# No deferred annotations here: Dagster reads the class of a step's config from its signature.

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.checks import segment_check_results, segment_check_specs
from embed_pipeline.orchestration.collection import Collection, CollectionReport
from embed_pipeline.orchestration.events import (
    NOTHING,
    event_logger,
    failure,
    failure_in_one_sentence,
    output_without_events,
    targeted_partitions,
)
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.metadata import segment_table_metadata
from embed_pipeline.orchestration.names import POOL
from embed_pipeline.orchestration.signs_of_life import signs_of_life
from embed_pipeline.orchestration.submitting import submission_numbers, submit_media
from embed_pipeline.orchestration.table import build_embeddings_table
from embed_pipeline.orchestration.traffic import traffic_in_words, traffic_numbers
from embed_pipeline.orchestration.versions import SEGMENTS_CODE_VERSION


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
        build_embeddings_table(blueprint),
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
        code_version=blueprint.task_code_version,
        group_name=blueprint.group_name,
        owners=list(blueprint.owners),
        kinds={"twelvelabs"},
        pool=POOL,
        required_resource_keys={blueprint.client_key, blueprint.library_key, blueprint.store_key},
    )
    def embedding_tasks(context: dg.AssetExecutionContext, config: SubmissionConfig) -> Iterator[dg.Output[None]]:
        keys = targeted_partitions(context)
        report = submit_media(blueprint, context, keys, force=config.force, retry_failed=config.retry_failed)
        yield output_without_events(submission_numbers(report))

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
        code_version=SEGMENTS_CODE_VERSION,
        metadata=segment_table_metadata(blueprint),
        check_specs=segment_check_specs(names),
        group_name=blueprint.group_name,
        owners=list(blueprint.owners),
        kinds={"parquet"},
        pool=POOL,
        required_resource_keys={blueprint.client_key, blueprint.store_key},
    )
    def segment_embeddings(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
        keys, ledger = targeted_partitions(context), Ledger(context.instance, names)
        resource = blueprint.client_resource(context.resources)
        with (
            failure_in_one_sentence(),
            signs_of_life(context.instance, context.run, names, blueprint.policy),
            resource.client() as client,
        ):
            report = Collection(
                names=names,
                ledger=ledger,
                client=client,
                platform=resource.platform,
                dataset=blueprint.dataset(context.resources),
                settings=blueprint.settings,
                policy=blueprint.policy,
                log_event=event_logger(context),
                log=context.log.info,
            ).run(keys)
            stats = client.stats
        context.log.info(_collection_headline(report))
        context.log.info(traffic_in_words(stats))
        summary = {**_collection_numbers(report), **traffic_numbers(stats)}
        yield from segment_check_results(context.instance, names, ledger, report.findings)
        problems = report.failed | {
            key: f"task {task_id} was still processing when the wait was over; the sensor collects it when it is ready"
            for key, task_id in report.processing.items()
        }
        # What stands in the way of all is the headline; each file that it kept from its turn is in the table.
        problems |= report.unseen
        if problems or report.stopped:
            raise failure(report.stopped or _collection_headline(report), problems, summary)
        yield output_without_events(summary)

    return segment_embeddings


def _collection_headline(report: CollectionReport) -> str:
    return (
        f"{len(report.collected)} media files collected with {report.segments} segments, "
        f"{len(report.processing)} still processing, {len(report.unseen)} not looked at, {len(report.failed)} failed."
    )


def _collection_numbers(report: CollectionReport) -> dict[str, Any]:
    return {
        "embed_pipeline/collected": len(report.collected),
        "embed_pipeline/segments": report.segments,
        "embed_pipeline/size_bytes": sum(written.size_bytes for written in report.collected.values()),
        "embed_pipeline/processing": len(report.processing),
        "embed_pipeline/not_looked_at": len(report.unseen),
        "embed_pipeline/failed": len(report.failed),
    }
