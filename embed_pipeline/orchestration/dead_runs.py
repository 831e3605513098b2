"""Runs whose process died without a word, as when a machine loses power: told from slow ones, and ended.

Dagster waits for them for ever, unless its run monitoring can ask the launcher for the health of a run's process.
Where it can, that is left to it. A run that is wrongly taken for dead is harmless: it notices that it was ended before
it creates a further task, the next submission adopts what it has created, and what it writes is what any other run
would write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.processes import Whereabouts, whereabouts
from embed_pipeline.orchestration.signs_of_life import process_of

_WAITING_STEPS_ARE_TOLD_EVERY = timedelta(minutes=5)
"""How often Dagster logs that a step waits for its place in a pool; a test pins it."""
_LAUNCH_TAKES = timedelta(hours=1)
"""A cluster may have to start a machine first."""
_LAUNCHING = frozenset({dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING})
_RUNNING = frozenset({dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING})
_STEP_BEGINS = frozenset({dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED})
# One that is to be tried again has not ended: it may be silent until then.
_STEP_ENDS = frozenset({dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE})


def patience(
    status: dg.DagsterRunStatus,
    steps_under_way: Mapping[str, bool],
    own_steps: Collection[str],
    *,
    dead_after: timedelta,
) -> timedelta | None:
    """How long a run may be silent before it is taken for dead; None for as long as it likes.

    Args:
        status: The run's status.
        steps_under_way: The steps of it that have not ended, and whether each has begun: a process or a machine of its
            own may be on its way for it.
        own_steps: The steps that show signs of life.
        dead_after: How long such a step may be silent.
    """
    if status in _LAUNCHING:
        return max(dead_after, _LAUNCH_TAKES)
    if not steps_under_way.keys() <= set(own_steps):
        return None
    if not all(steps_under_way.values()):
        return max(dead_after, _LAUNCH_TAKES)
    if steps_under_way:
        return dead_after
    return dead_after + _WAITING_STEPS_ARE_TOLD_EVERY


@dataclass(frozen=True)
class DeadRuns:
    """Finds and ends the dead runs of one pipeline.

    Args:
        instance: The Dagster instance.
        names: The pipeline's names.
        policy: When a silent run is taken for dead.
        log: Told in words of each run that is ended.
    """

    instance: dg.DagsterInstance
    names: PipelineNames
    policy: PipelinePolicy
    log: Callable[[str], None]

    def end(self, *, now: datetime) -> list[str]:
        """End every dead run of the pipeline; their ids."""
        statuses = [*_LAUNCHING, *_RUNNING]
        runs = [run for run in self.instance.get_runs(dg.RunsFilter(statuses=statuses)) if self._is_ours(run)]
        return [run.run_id for run in runs if self.end_if_dead(run, now=now)]

    def end_if_dead(self, run: dg.DagsterRun, *, now: datetime) -> bool:
        """End a run if it is dead; whether it has ended by now.

        Args:
            run: A run of the pipeline.
            now: The time of asking.
        """
        if (cause := self._cause_of_death(run, now)) is None:
            return False
        # It may have ended between the look at its status and the look at its process.
        latest = self.instance.get_run_by_id(run.run_id)
        if latest is None or latest.is_finished:
            return True
        message = (
            f"This run was taken for dead and ended: {cause} What it has created and written is kept, and the next "
            "runs do the rest."
        )
        if latest.status is dg.DagsterRunStatus.CANCELING:
            self.instance.report_run_canceled(latest, message)
        else:
            self.instance.report_run_failed(latest, message)
        storage = self.instance.event_log_storage
        if storage.supports_global_concurrency_limits:
            # Dagster gives them back only where that is configured.
            storage.free_concurrency_slots_for_run(run.run_id)
        self.log(f"Run {run.run_id} of {run.job_name} was taken for dead and ended: {cause}")
        return True

    def _is_ours(self, run: dg.DagsterRun) -> bool:
        return (
            self.names.process_tag in run.tags
            or run.job_name in self.names.jobs
            or not self.names.assets.isdisjoint(run.asset_selection or ())
        )

    def _cause_of_death(self, run: dg.DagsterRun, now: datetime) -> str | None:
        place = whereabouts(process_of(run, self.names))
        if place is Whereabouts.HERE or run.is_finished or run.status is dg.DagsterRunStatus.QUEUED:
            return None
        of_one_process = run.job_name in self.names.jobs
        if place is Whereabouts.GONE and of_one_process:
            return "its process is gone, and did not say why."
        dead_after = timedelta(seconds=self.policy.dead_after_sec)
        since = self._last_event(run)
        if now - since <= dead_after or self._dagster_watches(run):
            return None
        may_be_silent = patience(run.status, self._steps_under_way(run), self.names.steps, dead_after=dead_after)
        if may_be_silent is None or now - since <= may_be_silent:
            return None
        return (
            f"it has shown no sign of life since {since:%Y-%m-%d %H:%M:%S} UTC, as when its machine was switched off."
        )

    def _last_event(self, run: dg.DagsterRun) -> datetime:
        found = self.instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
        if found:
            return datetime.fromtimestamp(found[0].timestamp, tz=UTC)
        record = self.instance.get_run_record_by_id(run.run_id)
        return record.create_timestamp if record is not None else datetime.now(UTC)

    def _steps_under_way(self, run: dg.DagsterRun) -> dict[str, bool]:
        under_way: dict[str, bool] = {}
        launched = dg.DagsterEventType.STEP_WORKER_STARTING
        for entry in self.instance.all_logs(run.run_id, of_type={launched, *_STEP_BEGINS, *_STEP_ENDS}):
            if entry.step_key is None or entry.dagster_event is None:
                continue
            if entry.dagster_event.event_type in _STEP_ENDS:
                under_way.pop(entry.step_key, None)
            else:
                under_way[entry.step_key] = entry.dagster_event.event_type in _STEP_BEGINS
        return under_way

    def _dagster_watches(self, run: dg.DagsterRun) -> bool:
        """Whether Dagster's run monitoring notices by itself when such a run has died."""
        instance = self.instance
        if not instance.run_monitoring_enabled:
            return False
        if run.status in _LAUNCHING:
            return instance.run_monitoring_start_timeout_seconds > 0
        if run.status is dg.DagsterRunStatus.CANCELING:
            return instance.run_monitoring_cancel_timeout_seconds > 0
        try:
            return instance.run_launcher.supports_check_run_worker_health
        except Exception:
            # A launcher of a cluster that this process has no access to: the daemon has, and can ask it.
            return True
