"""Assets: media_files, embedding_tasks, segment_embeddings and embeddings_table, wired to the pipeline's stages."""

# No deferred annotations here: Dagster reads the class of a step's config from its signature.

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from embed_pipeline.ledger.tasks import Ask
from embed_pipeline.orchestration.blueprint import POOL, Blueprint
from embed_pipeline.orchestration.checks import (
    dataset_check_result,
    one_space_result,
    segment_check_results,
    segment_check_specs,
    table_check_specs,
)
from embed_pipeline.orchestration.metadata import (
    COLUMN_LINEAGE,
    COLUMN_SCHEMA,
    ROW_COUNT,
    SIZE_BYTES,
    TABLE_NAME,
    URI,
    column_lineage,
    column_schema,
    pictures,
    segment_table_metadata,
    traffic_in_words,
    traffic_numbers,
)
from embed_pipeline.orchestration.reporting import (
    NOTHING,
    SEGMENTS_CODE_VERSION,
    Reporter,
    failure,
    failure_in_one_sentence,
    output_without_events,
    targeted_partitions,
)
from embed_pipeline.pipeline.collect import CollectionReport, collect
from embed_pipeline.pipeline.publish import Published, publish
from embed_pipeline.pipeline.submit import SubmissionReport, submit

if TYPE_CHECKING:
    from embed_pipeline.dataset import MediaSegments, WrittenFile

_REASONS_LOGGED = 20
_KEYS_LOGGED = 5


class SubmissionConfig(dg.Config):
    """Treatment of files that have a task already, in a run of embedding_tasks."""

    force: bool = Field(False, description="Create a new task even for files that have one. Costs their minutes again.")
    retry_failed: bool = Field(False, description="Create a new task for files whose task failed or expired for good.")


def build_assets(blueprint: Blueprint) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Build the assets of one pipeline."""
    return [
        media_files_spec(blueprint),
        build_embedding_tasks(blueprint),
        build_segment_embeddings(blueprint),
        build_embeddings_table(blueprint),
    ]


def media_files_spec(blueprint: Blueprint) -> dg.AssetSpec:
    """Build the external asset that stands for the media library: one partition for each file."""
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
    """Build the asset that creates one embedding task for each media file, and never waits for it."""
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
        required_resource_keys=blueprint.resource_keys,
    )
    def embedding_tasks(context: dg.AssetExecutionContext, config: SubmissionConfig) -> Iterator[dg.Output[None]]:
        ask: Ask = "force" if config.force else "failed" if config.retry_failed else "due"
        # One bad file stops nobody: where the run goes on to segment_embeddings, that step fails for it at its end.
        goes_on = names.segment_embeddings in _assets_of_run(context)
        report = submit_media(blueprint, context, targeted_partitions(context), ask=ask, raises=not goes_on)
        yield output_without_events(submission_numbers(report))

    return embedding_tasks


def build_segment_embeddings(blueprint: Blueprint) -> dg.AssetsDefinition:
    """Build the asset that writes every segment's vector to the dataset once its task is ready."""
    names, policy = blueprint.names, blueprint.policy

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
        required_resource_keys=blueprint.resource_keys,
    )
    def segment_embeddings(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
        keys = targeted_partitions(context)

        def describe(segments: "MediaSegments", _written: "WrittenFile") -> dict[str, Any]:
            return {"pictures": pictures(segments, similarity=policy.pictures)}

        with failure_in_one_sentence(), blueprint.step(context) as pipeline:
            reporter = Reporter(blueprint, context.instance, pipeline.ledger, context.log_event, keys)
            report = collect(
                pipeline, keys, run_id=context.run.run_id, report=reporter, describe=describe, log=context.log.info
            )
            context.log.info(str(report))
            if report.traffic is not None:
                context.log.info(traffic_in_words(report.traffic))
            if report.collected:
                yield from segment_check_results(pipeline.ledger.problems(pipeline.name), checked=len(report.collected))
        summary = {**_collection_numbers(report), **traffic_numbers(report.traffic)}
        problems = report.failed | {
            key: f"task {task_id} was still processing when the wait was over; the sensor collects it when it is ready"
            for key, task_id in report.processing.items()
        }
        # What stands in the way of all is the headline; each file that it kept back is in the table.
        problems |= report.unseen
        if problems or report.stopped:
            raise failure(report.stopped or str(report), problems, summary)
        yield output_without_events(summary)

    return segment_embeddings


def build_embeddings_table(blueprint: Blueprint) -> dg.AssetsDefinition:
    """Build the asset of the compacted snapshot, with the table of outcomes beside it."""
    names, policy = blueprint.names, blueprint.policy

    @dg.asset(
        key=names.embeddings_table,
        deps=[names.segment_embeddings],
        description=(
            "All current segments in a few large Parquet files with a manifest, each media file once. Beside it lies "
            "the table `media`, one row for each media file, with what became of it. Readers go on with the snapshot "
            "before until the next one is complete, and earlier ones can be rolled back to."
        ),
        code_version="1",
        group_name=blueprint.group_name,
        owners=list(blueprint.owners),
        kinds={"parquet", "table"},
        metadata={
            COLUMN_SCHEMA: column_schema(blueprint.settings.embedding_dimension),
            COLUMN_LINEAGE: column_lineage(names.segment_embeddings),
            TABLE_NAME: "embeddings_table",
        },
        freshness_policy=dg.FreshnessPolicy.time_window(
            warn_window=timedelta(seconds=max(2 * policy.table_longest_sec, 60)),
            fail_window=timedelta(seconds=max(4 * policy.table_longest_sec, 120)),
        ),
        check_specs=table_check_specs(names),
        required_resource_keys=blueprint.resource_keys,
    )
    def embeddings_table(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        with failure_in_one_sentence(), blueprint.step(context, connect=False) as pipeline:
            published = publish(pipeline)
            context.log.info(str(published))
            yield dg.MaterializeResult(
                asset_key=names.embeddings_table,
                metadata={
                    **_table_metadata(published),
                    URI: pipeline.dataset.storage.uri("embeddings_table"),
                    "embed_pipeline/left_out_of_the_library": pipeline.ledger.noted(pipeline.name)["left_out"]
                    or "nothing",
                },
                data_version=dg.DataVersion(published.snapshot.snapshot_id),
            )
            media_by_space = Counter[str]()
            for file in published.snapshot.files:
                media_by_space[file.space] += file.media
            yield one_space_result(names, media_by_space)
            yield dataset_check_result(names, pipeline)

    return embeddings_table


def submit_media(
    blueprint: Blueprint,
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    keys: Sequence[str],
    *,
    ask: Ask,
    raises: bool = True,
) -> SubmissionReport:
    """Give each of some media files a task, within a step.

    Args:
        blueprint: The pipeline.
        context: The step; its resources hold the pipeline's.
        keys: The partition keys of the media files.
        ask: What may be paid for.
        raises: Whether the step fails for files that got no task.

    Raises:
        dg.Failure: Some media file got no task, or something stood in the way of them all. What went right is logged.
    """
    with failure_in_one_sentence(), blueprint.step(context) as pipeline:
        reporter = Reporter(blueprint, context.instance, pipeline.ledger, context.log_event, keys)
        run_id = context.run.root_run_id or context.run.run_id
        report = submit(pipeline, keys, ask=ask, run_id=run_id, report=reporter, log=context.log.info)
    if ask != "due" and not report.stopped:
        report.give_up_deferred()
    if report.traffic is not None:
        context.log.info(traffic_in_words(report.traffic))
    context.log.info(str(report))
    # A line is an event in the instance's database, so there is one for each reason, not for each file.
    for reason, deferred in list(_by_reason(report.deferred).items())[:_REASONS_LOGGED]:
        shown = ", ".join(deferred[:_KEYS_LOGGED]) + (", ..." if len(deferred) > _KEYS_LOGGED else "")
        context.log.info(f"{len(deferred)} deferred ({shown}): {reason}")
    if report.stopped or (raises and report.failed):
        raise failure(report.stopped or str(report), report.failed, submission_numbers(report))
    for key, problem in list(report.failed.items())[:_REASONS_LOGGED]:
        context.log.error(f"{key}: {problem}")
    return report


def submission_numbers(report: SubmissionReport) -> dict[str, Any]:
    """Return what a submission did, as metadata."""
    return {
        "embed_pipeline/created": len(report.created),
        "embed_pipeline/attached": len(report.attached),
        "embed_pipeline/adopted": len(report.adopted),
        "embed_pipeline/deferred": len(report.deferred),
        "embed_pipeline/failed": len(report.failed),
        "embed_pipeline/minutes": round(report.minutes, 3),
        **traffic_numbers(report.traffic),
    }


def _by_reason(deferred: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for key, reason in deferred.items():
        reasons.setdefault(reason, []).append(key)
    return reasons


def _assets_of_run(context: dg.AssetExecutionContext) -> set[dg.AssetKey]:
    """Return the assets that the run materializes."""
    return set(context.run.asset_selection or context.job_def.asset_layer.selected_asset_keys)


def _collection_numbers(report: CollectionReport) -> dict[str, Any]:
    return {
        "embed_pipeline/collected": len(report.collected),
        "embed_pipeline/segments": report.segments,
        "embed_pipeline/size_bytes": report.size_bytes,
        "embed_pipeline/processing": len(report.processing),
        "embed_pipeline/not_looked_at": len(report.unseen),
        "embed_pipeline/failed": len(report.failed),
    }


def _table_metadata(published: Published) -> dict[str, Any]:
    snapshot = published.snapshot
    return {
        ROW_COUNT: snapshot.rows,
        SIZE_BYTES: snapshot.size_bytes,
        "embed_pipeline/segments": snapshot.rows,
        "embed_pipeline/media_files_in_the_table": snapshot.media,
        "embed_pipeline/files": len(snapshot.files),
        "embed_pipeline/files_written": published.files_written,
        "embed_pipeline/spaces": ", ".join(snapshot.spaces),
        "embed_pipeline/snapshot": snapshot.snapshot_id,
        **{f"embed_pipeline/{state.value}": count for state, count in sorted(published.states.items()) if count},
        "embed_pipeline/minutes_billed": round(published.minutes_billed, 3),
        "embed_pipeline/outcomes": dg.MetadataValue.path(published.outcomes.uri),
    }
