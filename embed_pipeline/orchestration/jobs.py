"""Jobs that sensors, the schedule and people launch, and the schedule.

Those for people choose the media files themselves, when they run, so that nobody has to pick partitions by hand.
"""

# No deferred annotations here: Dagster reads the class of a step's config from its signature.

from collections.abc import Iterator
from contextlib import nullcontext

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from embed_pipeline.orchestration.assets import submission_numbers, submit_media
from embed_pipeline.orchestration.blueprint import POOL, Blueprint
from embed_pipeline.orchestration.metadata import plan_metadata
from embed_pipeline.orchestration.reporting import NOTHING, failure_in_one_sentence
from embed_pipeline.pipeline.maintain import NothingToRetryError, chosen_for_retry, known_keys, retire_gone
from embed_pipeline.pipeline.plan import make_plan


class RetryConfig(dg.Config):
    """Media files that are retried."""

    media: list[str] = Field(
        default=[],
        description="Media files to retry, by partition key or path. Empty retries all that failed or expired.",
    )


class ForceConfig(dg.Config):
    """Media files that get a new task, whatever they have."""

    media: list[str] = Field(
        description="Media files to submit anew, by partition key or path. Each costs its minutes again."
    )


class RetireConfig(dg.Config):
    """Vanished media files that are retired."""

    media: list[str] = Field(
        default=[], description="Vanished media files, by partition key or path. Empty retires all that are gone."
    )


def build_jobs(blueprint: Blueprint) -> list[UnresolvedAssetJobDefinition | dg.JobDefinition]:
    """Build all jobs of a pipeline. They run in one process: starting one for each step costs more than the steps."""
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
        dg.define_asset_job(
            names.refresh_job,
            selection=dg.AssetSelection.assets(names.embeddings_table)
            | dg.AssetSelection.checks_for_assets(names.embedding_tasks),
            executor_def=dg.in_process_executor,
            description=(
                "Builds the next snapshot of embeddings_table and the table of outcomes, and checks the library's "
                "tasks. Only what changed is written."
            ),
        ),
        _retry_failed(blueprint),
        _submit_new(blueprint),
        _force_new_task(blueprint),
        _plan(blueprint),
        _retire_vanished(blueprint),
    ]


def build_daily_embedding_schedule(blueprint: Blueprint) -> dg.ScheduleDefinition:
    """Build the schedule `daily_embedding_schedule`: one run that submits what is due, within the limits of minutes."""
    names, policy = blueprint.names, blueprint.policy

    @dg.schedule(
        name=names.plain("daily_embedding_schedule"),
        job_name=names.submit_new_job,
        cron_schedule=policy.schedule_cron,
        execution_timezone=policy.schedule_timezone,
        description="Submits every media file that is new, changed, of other settings, or may be tried again.",
    )
    def daily_embedding_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        # The run looks for what is due itself: it has the time to count minutes to the end.
        if not context.instance.get_dynamic_partitions(names.partitions):
            return dg.SkipReason("There are no media files yet.")
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return daily_embedding_schedule


def _retry_failed(blueprint: Blueprint) -> dg.JobDefinition:
    @dg.op(
        name=blueprint.names.retry_job,
        out=dg.Out(NOTHING),
        pool=POOL,
        required_resource_keys=blueprint.resource_keys,
        description="Creates a new task for media files whose task failed or expired, and leaves all others alone.",
    )
    def retry(context: dg.OpExecutionContext, config: RetryConfig) -> Iterator[dg.Output[None]]:
        try:
            with (
                failure_in_one_sentence() if config.media else nullcontext(),
                blueprint.step(context, connect=False) as pipeline,
            ):
                keys = chosen_for_retry(pipeline.ledger.states(pipeline.target), config.media)
        except NothingToRetryError as error:
            context.log.info(error.message)
            yield dg.Output(None, metadata={"embed_pipeline/created": 0})
            return
        report = submit_media(blueprint, context, keys, ask="failed")
        yield dg.Output(None, metadata=submission_numbers(report))

    return _job_of(retry, "Retries what failed or expired: all of it, or the media files that are named.")


def _submit_new(blueprint: Blueprint) -> dg.JobDefinition:
    @dg.op(
        name=blueprint.names.submit_new_job,
        out=dg.Out(NOTHING),
        pool=POOL,
        required_resource_keys=blueprint.resource_keys,
        description="Creates a task for each media file that is new, changed, of other settings, or may be retried.",
    )
    def submit_new(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        with failure_in_one_sentence(), blueprint.step(context, connect=False) as pipeline:
            due = [file.key for file in pipeline.ledger.due(pipeline.target, waiting=True)]
        context.log.info(f"{len(due)} media files are due.")
        report = submit_media(blueprint, context, due, ask="due")
        yield dg.Output(None, metadata={"embed_pipeline/due": len(due), **submission_numbers(report)})

    return _job_of(submit_new, "Submits every media file that is new, has changed, or may be tried again, in one run.")


def _force_new_task(blueprint: Blueprint) -> dg.JobDefinition:
    @dg.op(
        name=blueprint.names.force_job,
        out=dg.Out(NOTHING),
        pool=POOL,
        required_resource_keys=blueprint.resource_keys,
        description="Creates a new task for the media files that are named, whatever they have. Costs their minutes.",
    )
    def force(context: dg.OpExecutionContext, config: ForceConfig) -> Iterator[dg.Output[None]]:
        with failure_in_one_sentence(), blueprint.step(context, connect=False) as pipeline:
            wanted = known_keys(pipeline.ledger.keys(pipeline.name), config.media)
        report = submit_media(blueprint, context, sorted(wanted), ask="force")
        yield dg.Output(None, metadata=submission_numbers(report))

    return _job_of(force, "Pays for a new task of the media files that are named, even if they are embedded.")


def _plan(blueprint: Blueprint) -> dg.JobDefinition:
    @dg.op(
        name=blueprint.names.plan_job,
        out=dg.Out(NOTHING),
        required_resource_keys=blueprint.resource_keys,
        description="Shows what a submission would create, cost and take, on the step's output. Spends nothing.",
    )
    def plan(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        limits = blueprint.client_resource(context.resources).limits()
        with failure_in_one_sentence(), blueprint.step(context, connect=False) as pipeline:
            planned = make_plan(pipeline, limits=limits)
        context.log.info(f"{planned.headline} {planned.pace}")
        yield dg.Output(None, metadata=plan_metadata(planned))

    return _job_of(plan, "Shows, before anything is spent, what would be created: files, minutes, cost, time.")


def _retire_vanished(blueprint: Blueprint) -> dg.JobDefinition:
    names = blueprint.names

    @dg.op(
        name=names.retire_job,
        out=dg.Out(NOTHING),
        required_resource_keys=blueprint.resource_keys,
        description="Removes the segments and partitions of media files that are gone from the library.",
    )
    def retire(context: dg.OpExecutionContext, config: RetireConfig) -> Iterator[dg.Output[None]]:
        with failure_in_one_sentence(), blueprint.step(context, connect=False) as pipeline:
            retired, kept = retire_gone(pipeline, config.media)
        for key in kept:
            context.log.info(f"{key} is kept for now: a file with the same content is not embedded yet.")
        for key in retired.keys:
            context.log.info(f"{key} is retired; its partition goes with the next tick of discovery.")
        yield dg.Output(
            None,
            metadata={
                "embed_pipeline/retired": len(retired.keys),
                "embed_pipeline/kept": len(kept),
                "embed_pipeline/files_removed": retired.files_removed,
            },
        )

    return _job_of(retire, "Removes media files that vanished from the library: their segments and their partitions.")


def _job_of(op: dg.OpDefinition, description: str) -> dg.JobDefinition:
    """Build a job of one step that bears the step's name."""

    @dg.graph(name=f"{op.name}_graph")
    def graph() -> None:
        op()

    return graph.to_job(name=op.name, description=description, executor_def=dg.in_process_executor)
