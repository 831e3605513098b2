"""Runs of the pipeline in Dagster: the ranges they carry, those that are queued, and those whose process is gone."""

from __future__ import annotations

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
    """End the runs whose lease on their media files has lapsed, where Dagster still has them as started.

    Nothing depends on it: their media files are free as soon as the lease has lapsed.

    Returns:
        The ids of the runs that were ended.
    """
    lapsed = ledger.media.lapsed_runs(names.name or "")
    if not lapsed:
        return []
    ended = []
    for run in instance.get_runs(dg.RunsFilter(run_ids=sorted(lapsed), statuses=list(_AT_WORK))):
        others = set(run.asset_selection or ()) - names.assets
        if others or (not run.asset_selection and run.job_name not in names.jobs):
            continue  # it may be at work on somebody else's asset
        message = "Run ended: process gone. It missed its heartbeat, and its lease on its media files has lapsed."
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_run_failed(run, message)
        ended.append(run.run_id)
    return ended


def _waiting_for_the_pool(instance: dg.DagsterInstance) -> Collection[str]:
    """Return the runs with a step that waits for a place in the pool."""
    if not instance.event_log_storage.supports_global_concurrency_limits:
        return ()
    if POOL not in instance.event_log_storage.get_concurrency_keys():
        return ()
    info = instance.event_log_storage.get_concurrency_info(POOL)
    return {step.run_id for step in info.pending_steps if step.assigned_timestamp is None}
