"""The runs that are under way or have failed for an asset's partitions, as Dagster's run storage tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from embed_pipeline.orchestration.ranges import EndedRun, keys_of_run

RUNS_COUNT_FOR = timedelta(hours=6)
"""What failed, or was created and never queued, longer ago than this is not waited for any more."""
IMPLICIT_JOB = "__ASSET_JOB"
"""What Dagster calls the job of backfills and of runs that are launched from an asset's page; a test pins it."""
_LATEST_RUNS = 500


@dataclass(frozen=True)
class RunsOfAsset:
    """What runs bear on an asset's partitions.

    Args:
        in_flight: The keys that a queued or running run targets.
        failed: The runs that failed, with their keys.
        others: The runs that succeeded or were canceled, with their keys.
    """

    in_flight: frozenset[str]
    failed: tuple[EndedRun, ...]
    others: tuple[EndedRun, ...] = ()


def runs_of_asset(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, jobs: Sequence[str], order: Sequence[str], *, since: datetime
) -> RunsOfAsset:
    """Look up the runs that target an asset.

    Args:
        instance: The Dagster instance.
        asset_key: The asset.
        jobs: The jobs that target it without naming it in their selection.
        order: Every partition key, in key order.
        since: Runs that ended before this do not count, nor do runs that were created before and never queued.
    """
    position = {key: index for index, key in enumerate(order)}

    def keys(run: dg.DagsterRun) -> Sequence[str]:
        # A run that was launched in process has an empty selection where the daemon's has none.
        if run.asset_selection:
            if asset_key not in run.asset_selection:
                return []
        elif run.job_name not in jobs:
            return []
        return keys_of_run(run.tags, position, order)

    in_flight = {key for run in runs_under_way(instance, since=since) for key in keys(run)}

    def ended(*statuses: dg.DagsterRunStatus) -> Iterator[EndedRun]:
        # Job by job: among the latest runs of a busy instance there may be none of these.
        for job_name in (*jobs, IMPLICIT_JOB):
            wanted = dg.RunsFilter(job_name=job_name, statuses=list(statuses), updated_after=since)
            for record in instance.get_run_records(wanted, limit=_LATEST_RUNS):
                if not (targeted := keys(record.dagster_run)):
                    continue
                at = datetime.fromtimestamp(record.end_time, tz=UTC) if record.end_time else record.update_timestamp
                yield EndedRun(tuple(targeted), at)

    return RunsOfAsset(
        frozenset(in_flight),
        failed=tuple(ended(dg.DagsterRunStatus.FAILURE)),
        others=tuple(ended(dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED)),
    )


def runs_under_way(
    instance: dg.DagsterInstance, *, since: datetime, job_name: str | None = None
) -> list[dg.DagsterRun]:
    """The runs that are queued or running.

    Args:
        instance: The Dagster instance.
        since: Runs that were created before and never queued do not count: a daemon that died between creating a run
            and queueing it takes it up again soon, or never.
        job_name: Only runs of this job.
    """
    queued = dg.RunsFilter(job_name=job_name, statuses=list(_UNDER_WAY))
    created = dg.RunsFilter(job_name=job_name, statuses=[dg.DagsterRunStatus.NOT_STARTED], created_after=since)
    return [*instance.get_runs(queued), *instance.get_runs(created)]


_UNDER_WAY = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
