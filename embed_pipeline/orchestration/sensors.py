"""Sensors: discovery, readiness, and the refresh of the table. Each tick asks the ledger, and remembers nothing."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from uuid import uuid4

import dagster as dg

from embed_pipeline.ledger import Step
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.reporting import report_left_behind
from embed_pipeline.orchestration.runs import KeyRange, contiguous_ranges, end_stale_runs, queued_keys
from embed_pipeline.pipeline.collect import Readiness, look_for_ended
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.discover import DiscoveryReport, discover
from embed_pipeline.pipeline.plan import set_size
from embed_pipeline.pipeline.publish import refresh_due
from embed_pipeline.pipeline.recover import recover_in_passing

_PROBLEMS_SHOWN = 3
# One statement holds them; Dagster's own limit depends on the database.
_PARTITIONS_AT_ONCE = 5000
# A run that was requested gets so long before another one is requested for the same media files.
_REQUEST_PATIENCE_SEC = 60.0


def build_media_discovery_sensor(
    *, blueprint: Blueprint, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING
) -> dg.SensorDefinition:
    """Build the sensor `media_discovery_sensor`: lists the library, adds partitions, requests submissions.

    Args:
        blueprint: The pipeline.
        default_status: Whether it runs without being switched on.
    """
    names, policy = blueprint.names, blueprint.policy

    @dg.sensor(
        name=names.plain("media_discovery_sensor"),
        job_name=names.submit_job,
        minimum_interval_seconds=policy.sensor_interval_sec,
        default_status=default_status,
        required_resource_keys=blueprint.resource_keys,
        description=(
            "Lists the media library. A new file becomes a partition, a changed one gets a new data version, a "
            "vanished one is marked as gone."
        ),
    )
    def media_discovery_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        deadline = time.monotonic() + policy.tick_budget_sec
        with blueprint.pipeline(context.resources, connect=False) as pipeline:
            found = discover(pipeline, budget_sec=policy.tick_budget_sec * 0.6)
            order = _sync_partitions(blueprint, context.instance, pipeline, found)
            left_sec = max(deadline - time.monotonic(), 1.0)
            report_left_behind(blueprint, context.instance, pipeline.ledger, budget_sec=left_sec)
            end_stale_runs(context.instance, names, pipeline.ledger)
            ranges, notes = _submissions(blueprint, context.instance, pipeline, order)
            notes += [
                f"{files} deferred, {first} first: {reason.rstrip('.')}"
                for reason, files, first in pipeline.ledger.deferred(pipeline.name)
            ]
        summary = ", ".join([str(found), *notes]) + "."
        problems = list(found.problems)[:_PROBLEMS_SHOWN]
        return _answer(context, " ".join([summary, *problems]), ranges)

    return media_discovery_sensor


def build_embedding_ready_sensor(
    *, blueprint: Blueprint, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING
) -> dg.SensorDefinition:
    """Build the sensor `embedding_ready_sensor`: requests `segment_embeddings` for the tasks that have ended.

    Args:
        blueprint: The pipeline.
        default_status: Whether it runs without being switched on.
    """
    names, policy = blueprint.names, blueprint.policy

    @dg.sensor(
        name=names.plain("embedding_ready_sensor"),
        job_name=names.collect_job,
        minimum_interval_seconds=policy.sensor_interval_sec,
        default_status=default_status,
        required_resource_keys=blueprint.resource_keys,
        description=(
            "Asks the platform which tasks have ended and requests their collection, oldest first; finds the tasks of "
            "runs that died while they created them."
        ),
    )
    def embedding_ready_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        # One request that is answered late, and sent again, must not outlast the tick.
        with blueprint.pipeline(context.resources, patience_sec=policy.tick_budget_sec / 5) as pipeline:
            end_stale_runs(context.instance, names, pipeline.ledger)
            recovered = recover_in_passing(pipeline, owner=uuid4().hex)
            found = look_for_ended(pipeline, budget_sec=policy.tick_budget_sec)
            order = context.instance.get_dynamic_partitions(names.partitions) if found.ended else []
            ranges, waiting = _collections(blueprint, context.instance, pipeline, found, order)
            report_left_behind(blueprint, context.instance, pipeline.ledger, budget_sec=policy.tick_budget_sec / 3)
        return _answer(context, _readiness_in_words(blueprint, found, ranges, waiting, recovered), ranges)

    return embedding_ready_sensor


def build_embeddings_table_sensor(
    *, blueprint: Blueprint, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING
) -> dg.SensorDefinition:
    """Build the sensor `embeddings_table_sensor`: requests the table when there is something new to put into it.

    Args:
        blueprint: The pipeline.
        default_status: Whether it runs without being switched on.
    """
    names, policy = blueprint.names, blueprint.policy

    @dg.sensor(
        name=names.plain("embeddings_table_sensor"),
        job_name=names.refresh_job,
        minimum_interval_seconds=policy.sensor_interval_sec,
        default_status=default_status,
        required_resource_keys=blueprint.resource_keys,
        description=(
            "Asks for embeddings_table when all results are in, now and then while they still come in, and at least "
            "every few hours, because its checks run with it; first of all as soon as there are media files. Asks "
            "the platform nothing."
        ),
    )
    def embeddings_table_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        under_way = dg.RunsFilter(
            job_name=names.refresh_job,
            statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED],
        )
        with blueprint.pipeline(context.resources, connect=False) as pipeline:
            decision = refresh_due(pipeline)
            if not decision.due:
                return dg.SkipReason(decision.reason)
            asked_at = pipeline.ledger.noted(pipeline.name)["table_requested_at"]
            is_recent = asked_at is not None and pipeline.ledger.now() - asked_at < policy.table_longest_sec
            if is_recent and context.instance.get_runs(under_way, limit=1):
                return dg.SkipReason("A run of embeddings_table is under way.")
            pipeline.ledger.note(pipeline.name, table_requested_at=pipeline.ledger.now())
        return dg.RunRequest()

    return embeddings_table_sensor


def _sync_partitions(
    blueprint: Blueprint, instance: dg.DagsterInstance, pipeline: PipelineContext, found: DiscoveryReport
) -> list[str]:
    """Make Dagster's partitions those of the ledger; return them in key order."""
    name = blueprint.names.partitions
    known, order = pipeline.ledger.keys(pipeline.name), list(instance.get_dynamic_partitions(name))
    present, wanted = set(order), set(known)
    new = [key for key in known if key not in present]
    for start in range(0, len(new), _PARTITIONS_AT_ONCE):
        instance.add_dynamic_partitions(name, new[start : start + _PARTITIONS_AT_ONCE])
    # An instance that does not know a media file's partition does not know its story either.
    if again := set(new) - set(found.new):
        pipeline.ledger.media.report_again(pipeline.target, again)
    removed = present - wanted
    if removed:
        # A run for a partition that is gone would fail.
        names = blueprint.names
        removed -= queued_keys(instance, names, names.embedding_tasks, order)
        removed -= queued_keys(instance, names, names.segment_embeddings, order)
        # What is still to be reported of them comes before their partition goes.
        report_left_behind(blueprint, instance, pipeline.ledger, budget_sec=5.0)
    for key in removed:
        instance.delete_dynamic_partition(name, key)
    return [key for key in order if key not in removed] + new


def _submissions(
    blueprint: Blueprint, instance: dg.DagsterInstance, pipeline: PipelineContext, order: Sequence[str]
) -> tuple[list[KeyRange], list[str]]:
    """Choose the submitting runs to request; return them, and what to say of it."""
    policy, ledger = blueprint.policy, pipeline.ledger
    if not policy.submit_automatically:
        return [], []
    found = ledger.due(pipeline.target)
    # A task of their content and settings is there already, as when settings come back: that takes no run.
    ledger.tasks.attach(pipeline.target, [file.key for file in found if file.step in {Step.WAIT, Step.COLLECT}])
    due = [file for file in found if file.step is Step.SUBMIT]
    if not due:
        return [], []
    queued = queued_keys(instance, blueprint.names, blueprint.names.embedding_tasks, order)
    sizes = {
        file.key: set_size(file.interruptions, policy.partitions_per_run) for file in due if file.key not in queued
    }
    ranges = contiguous_ranges(sizes, order)[: policy.runs_per_tick]
    asked = [key for each in ranges for key in each.keys]
    ledger.media.request(pipeline.name, asked, patience_sec=_REQUEST_PATIENCE_SEC)
    notes = [f"{len(due)} due for submission", f"{len(ranges)} runs requested for {len(asked)}"]
    if in_runs := len(due) - len(sizes):
        notes.append(f"{in_runs} of them in queued runs")
    return ranges, notes


def _collections(
    blueprint: Blueprint,
    instance: dg.DagsterInstance,
    pipeline: PipelineContext,
    found: Readiness,
    order: Sequence[str],
) -> tuple[list[KeyRange], Collection[str]]:
    """Choose the collecting runs to request, oldest task first; return them, and the keys that queued runs have."""
    if not found.ended:
        return [], ()
    policy, names = blueprint.policy, blueprint.names
    queued = queued_keys(instance, names, names.segment_embeddings, order)
    age = {file.key: number for number, file in enumerate(found.ended)}
    sizes = {
        file.key: set_size(file.interruptions, policy.partitions_per_run)
        for file in found.ended
        if file.key not in queued
    }
    ranges = sorted(contiguous_ranges(sizes, order), key=lambda each: min(age[key] for key in each.keys))
    chosen = ranges[: policy.runs_per_tick]
    asked = [key for each in chosen for key in each.keys]
    pipeline.ledger.media.request(pipeline.name, asked, patience_sec=_REQUEST_PATIENCE_SEC)
    return chosen, queued & age.keys()


def _readiness_in_words(
    blueprint: Blueprint, found: Readiness, ranges: Sequence[KeyRange], waiting: Collection[str], recovered: str
) -> str:
    if not found.pending:
        return " ".join([recovered + ".", "No task is pending."]) if recovered else "No task is pending."
    if found.problem is not None and not found.ended:
        return f"{found.pending} tasks are pending, but the platform could not be asked: {found.problem}"
    asked = sum(len(each.keys) for each in ranges)
    parts = [
        f"{found.pending} tasks pending",
        f"{len(found.ended)} of them ended",
        f"{found.busy + len(waiting)} in runs, requested or deferred",
        f"{len(ranges)} runs requested for {asked} media files",
        *([recovered] if recovered else []),
        *([] if found.complete else ["the rest is looked at in the next tick"]),
    ]
    sentences = [", ".join(parts) + "."]
    if found.problem is not None:
        sentences.append(f"The platform could not be asked for all: {found.problem}")
    sentences += [
        f"{count} tasks were created on {other}, and this pipeline asks {blueprint.client.platform}: set "
        "EMBED_BASE_URL and EMBED_API_KEY back to collect them, or materialize embedding_tasks anew."
        for other, count in found.elsewhere.items()
    ]
    return " ".join(sentences)


def _answer(
    context: dg.SensorEvaluationContext, summary: str, ranges: Sequence[KeyRange]
) -> dg.SensorResult | dg.SkipReason:
    context.log.info(summary)
    if not ranges:
        return dg.SkipReason(summary)
    return dg.SensorResult(run_requests=[dg.RunRequest(tags=each.tags) for each in ranges])
