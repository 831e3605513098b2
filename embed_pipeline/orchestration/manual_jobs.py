"""The jobs that people launch: retry what failed, submit what is new, force one file, plan, retire what vanished.

They choose the media files themselves, when they run, so that nobody has to pick partitions by hand.
"""

# No deferred annotations here: Dagster reads the class of a step's config from its signature.

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.due import read_due
from embed_pipeline.orchestration.events import NOTHING, failure_in_one_sentence
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.names import POOL
from embed_pipeline.orchestration.outdated import excused_from_settings, find_all_outdated
from embed_pipeline.orchestration.planning import make_plan
from embed_pipeline.orchestration.retiring import awaited_contents, retire_media
from embed_pipeline.orchestration.retrying import NothingToRetryError, chosen_for_retry, known_keys
from embed_pipeline.orchestration.signs_of_life import signs_of_life
from embed_pipeline.orchestration.states import MediaState
from embed_pipeline.orchestration.submitting import (
    submission_headline,
    submission_numbers,
    submit_media,
)
from embed_pipeline.orchestration.versions import content_of


class RetryConfig(dg.Config):
    """Which media files are retried."""

    media: list[str] = Field(
        default=[],
        description="Media files to retry, by partition key or path. Empty retries all that failed or expired.",
    )


class ForceConfig(dg.Config):
    """Which media files get a new task, whatever they have."""

    media: list[str] = Field(
        description="Media files to submit anew, by partition key or path. Each costs its minutes again."
    )


class RetireConfig(dg.Config):
    """Which vanished media files are retired."""

    media: list[str] = Field(
        default=[], description="Vanished media files, by partition key or path. Empty retires all that are gone."
    )


def build_manual_jobs(blueprint: Blueprint) -> list[dg.JobDefinition]:
    """The jobs for people, each of one step."""
    return [
        _retry_failed(blueprint),
        _submit_new(blueprint),
        _force_new_task(blueprint),
        _plan(blueprint),
        _retire_vanished(blueprint),
    ]


def _retry_failed(blueprint: Blueprint) -> dg.JobDefinition:
    names = blueprint.names

    @dg.op(
        name=names.retry_job,
        out=dg.Out(NOTHING),
        pool=POOL,
        required_resource_keys={blueprint.client_key, blueprint.library_key, blueprint.store_key},
        description="Creates a new task for media files whose task failed or expired, and leaves all others alone.",
    )
    def retry(context: dg.OpExecutionContext, config: RetryConfig) -> Iterator[dg.Output[None]]:
        states = Ledger(context.instance, names).states()
        try:
            with failure_in_one_sentence() if config.media else nullcontext():
                keys = chosen_for_retry(states, config.media)
        except NothingToRetryError as error:
            context.log.info(error.message)
            yield dg.Output(None, metadata={"embed_pipeline/created": 0})
            return
        report = submit_media(blueprint, context, keys, retry_failed=True)
        yield dg.Output(None, metadata=submission_numbers(report))

    return _job_of(retry, "Retries what failed or expired: all of it, or the media files that are named.")


def _submit_new(blueprint: Blueprint) -> dg.JobDefinition:
    names = blueprint.names

    @dg.op(
        name=names.submit_new_job,
        out=dg.Out(NOTHING),
        pool=POOL,
        required_resource_keys={blueprint.client_key, blueprint.library_key, blueprint.store_key},
        description="Creates a task for each media file that is new, changed, of other settings, or may be retried.",
    )
    def submit_new(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        ledger = Ledger(context.instance, names)
        order = ledger.partitions()
        with signs_of_life(context.instance, context.run, names, blueprint.policy):
            outdated = find_all_outdated(
                context.instance,
                names,
                blueprint.task_code_version,
                ledger.task_event_ids(),
                excused_from_settings(ledger, order, ledger.media_versions(), blueprint.terms),
            )
        now, terms = datetime.now(UTC), blueprint.terms
        due = read_due(ledger, order, blueprint.policy, now, terms=terms, outdated=set(outdated))
        context.log.info(f"{len(due)} of {len(order)} media files are due, {len(outdated)} of them of other settings.")
        report = submit_media(blueprint, context, due)
        yield dg.Output(None, metadata={"embed_pipeline/due": len(due), **submission_numbers(report)})

    return _job_of(submit_new, "Submits every media file that is new, has changed, or may be tried again, in one run.")


def _force_new_task(blueprint: Blueprint) -> dg.JobDefinition:
    names = blueprint.names

    @dg.op(
        name=names.force_job,
        out=dg.Out(NOTHING),
        pool=POOL,
        required_resource_keys={blueprint.client_key, blueprint.library_key, blueprint.store_key},
        description="Creates a new task for the media files that are named, whatever they have. Costs their minutes.",
    )
    def force(context: dg.OpExecutionContext, config: ForceConfig) -> Iterator[dg.Output[None]]:
        ledger = Ledger(context.instance, names)
        with failure_in_one_sentence():
            wanted = known_keys(ledger.partitions(), config.media)
        report = submit_media(blueprint, context, sorted(wanted), force=True)
        context.log.info(submission_headline(report))
        yield dg.Output(None, metadata=submission_numbers(report))

    return _job_of(force, "Pays for a new task of the media files that are named, even if they are embedded.")


def _plan(blueprint: Blueprint) -> dg.JobDefinition:
    @dg.op(
        name=blueprint.names.plan_job,
        out=dg.Out(NOTHING),
        required_resource_keys={blueprint.client_key, blueprint.library_key, blueprint.store_key},
        description="Tells what a submission would create, cost and take, on the step's output. Spends nothing.",
    )
    def plan(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        with signs_of_life(context.instance, context.run, blueprint.names, blueprint.policy):
            told = make_plan(
                ledger=Ledger(context.instance, blueprint.names),
                library=blueprint.library_resource(context.resources).library(),
                settings=blueprint.settings,
                policy=blueprint.policy,
                client=blueprint.client_resource(context.resources),
                dataset=blueprint.store_resource(context.resources).dataset(),
                now=datetime.now(UTC),
            )
        context.log.info(f"{told.headline} {told.pace}")
        yield dg.Output(None, metadata=told.metadata())

    return _job_of(plan, "Tells, before anything is spent, what would be created: files, minutes, cost, time.")


def _retire_vanished(blueprint: Blueprint) -> dg.JobDefinition:
    names = blueprint.names

    @dg.op(
        name=names.retire_job,
        out=dg.Out(NOTHING),
        required_resource_keys={blueprint.store_key},
        description="Removes the segments and partitions of media files that are gone from the library.",
    )
    def retire(context: dg.OpExecutionContext, config: RetireConfig) -> Iterator[dg.Output[None]]:
        ledger = Ledger(context.instance, names)
        states, versions = ledger.states(), ledger.media_versions()
        with failure_in_one_sentence():
            wanted = known_keys(states, config.media) if config.media else set(states)
            dataset = blueprint.dataset(context.resources)
        gone = [key for key in states if key in wanted and states[key] is MediaState.GONE]
        if here := sorted(wanted - set(gone)) if config.media else []:
            raise dg.Failure(f"{', '.join(here[:5])} is still in the library: only what is gone can be retired.")
        awaited = awaited_contents(ledger)
        needed = [key for key in gone if content_of(versions[key]) in awaited]
        for key in needed:
            context.log.info(f"{key} is kept for now: a file with the same content is not embedded yet.")
        free = [key for key in gone if key not in set(needed)]
        with signs_of_life(context.instance, context.run, names, blueprint.policy):
            retired = retire_media(context.instance, names, dataset, free, settings=blueprint.settings)
        for key in retired.keys:
            context.log.info(f"{key} is retired.")
        yield dg.Output(
            None,
            metadata={
                "embed_pipeline/retired": len(retired.keys),
                "embed_pipeline/kept": len(needed),
                "embed_pipeline/files_removed": retired.files_removed,
            },
        )

    return _job_of(retire, "Removes media files that vanished from the library: their segments and their partitions.")


def _job_of(op: dg.OpDefinition, description: str) -> dg.JobDefinition:
    """A job of one step that bears the step's name."""

    @dg.graph(name=f"{op.name}_graph")
    def graph() -> None:
        op()

    return graph.to_job(name=op.name, description=description, executor_def=dg.in_process_executor)
