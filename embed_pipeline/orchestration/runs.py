"""Runs of the pipeline in Dagster: the ranges they carry, those that are queued, and those whose process is gone."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from embed_pipeline.ledger import Ledger
from embed_pipeline.orchestration.blueprint import POOL, PipelineNames

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"
# A daemon that died between creating a run and queueing it takes it up again soon, or never.
_CREATED_COUNTS_FOR = timedelta(minutes=10)
_BEFORE_ITS_PROCESS = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING)
_AT_WORK = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
# A step's process starts within seconds, and that a step waits for the pool is logged every five minutes.
_BETWEEN_STEPS_SEC = 60.0
_WAITING_SEC = 600.0


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Contiguous partition keys in key order."""

    keys: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        """The run tags that make a run target exactly these keys."""
        return {RANGE_START_TAG: self.keys[0], RANGE_END_TAG: self.keys[-1]}


def contiguous_ranges(wanted: Mapping[str, int], order: Sequence[str]) -> list[KeyRange]:
    """Return the fewest ranges that hold exactly the wanted keys.

    Args:
        wanted: How many keys may be in one range with each key; those that are not in `order` are left out.
        order: Every key in key order.
    """
    ranges: list[KeyRange] = []
    current: list[str] = []
    room = 0
    for key in order:
        size = wanted.get(key)
        if current and (size is None or len(current) >= min(room, size)):
            ranges.append(KeyRange(tuple(current)))
            current = []
        if size is not None:
            room = size if not current else min(room, size)
            current.append(key)
    if current:
        ranges.append(KeyRange(tuple(current)))
    return ranges


def keys_of_run(tags: Mapping[str, str], position: Mapping[str, int], order: Sequence[str]) -> Sequence[str]:
    """Return the partition keys that a run targets, read from its tags; none where it targets none that exist."""
    if (key := tags.get(PARTITION_TAG)) is not None:
        return [key]
    start, end = tags.get(RANGE_START_TAG), tags.get(RANGE_END_TAG)
    if start is None or end is None or start not in position or end not in position:
        return []
    return order[position[start] : position[end] + 1]


def queued_keys(
    instance: dg.DagsterInstance, names: PipelineNames, asset: dg.AssetKey, order: Sequence[str]
) -> set[str]:
    """Return the partition keys that runs will work on which wait for their process, or for a place in the pool.

    A run that is at work is known to the ledger by its lease.

    Args:
        instance: The Dagster instance.
        names: The pipeline's names.
        asset: The asset that the runs materialize.
        order: Every partition key, in key order.
    """
    since = datetime.now(UTC) - _CREATED_COUNTS_FOR
    runs = [
        *instance.get_runs(dg.RunsFilter(statuses=list(_BEFORE_ITS_PROCESS))),
        *instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED], created_after=since)),
    ]
    waiting = _waiting_for_the_pool(instance)
    if waiting:
        runs += [run for run in instance.get_runs(dg.RunsFilter(run_ids=list(waiting))) if not run.is_finished]
    position = {key: index for index, key in enumerate(order)}
    jobs = {names.embedding_tasks: names.submit_job, names.segment_embeddings: names.collect_job}
    return {
        key
        for run in runs
        if (asset in run.asset_selection if run.asset_selection else run.job_name == jobs[asset])
        for key in keys_of_run(run.tags, position, order)
    }


def end_stale_runs(instance: dg.DagsterInstance, names: PipelineNames, ledger: Ledger) -> list[str]:
    """End the runs whose process is gone, where Dagster still has them as started.

    A run holds a lease in the ledger while a step of it works. No media file waits for such a run, but it takes the
    place of another one in Dagster's queue. Where Dagster's monitoring looks after the processes itself, it is let.

    Returns:
        The ids of the runs that were ended.
    """
    if instance.run_monitoring_enabled and instance.run_launcher.supports_check_run_worker_health:
        return []
    runs = instance.get_runs(dg.RunsFilter(statuses=list(_AT_WORK)))
    if not runs:
        return []
    leases, waiting = ledger.runs.leases(names.name or ""), _waiting_for_the_pool(instance)
    ended = []
    for run in runs:
        others = set(run.asset_selection or ()) - names.assets
        if others or (not run.asset_selection and run.job_name not in names.jobs):
            continue  # it may be at work on somebody else's asset
        if leases.get(run.run_id):
            continue
        # Without any lease it is before its first step, between two, or after the last.
        patience_sec = _WAITING_SEC if run.run_id in waiting else _BETWEEN_STEPS_SEC
        if run.run_id not in leases and _silent_sec(instance, run) < patience_sec:
            continue
        message = "Run ended: process gone. It missed its heartbeat, and its lease in the ledger has lapsed."
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_run_failed(run, message)
        ended.append(run.run_id)
    return ended


def _silent_sec(instance: dg.DagsterInstance, run: dg.DagsterRun) -> float:
    """Return the seconds since a run logged anything."""
    records = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    return time.time() - records[0].event_log_entry.timestamp if records else float("inf")


def _waiting_for_the_pool(instance: dg.DagsterInstance) -> Collection[str]:
    """Return the runs with a step that waits for a place in the pool."""
    if not instance.event_log_storage.supports_global_concurrency_limits:
        return ()
    if POOL not in instance.event_log_storage.get_concurrency_keys():
        return ()
    info = instance.event_log_storage.get_concurrency_info(POOL)
    return {step.run_id for step in info.pending_steps if step.assigned_timestamp is None}
