"""The sensor that notices which tasks are ready and asks for their segments, holding no worker and no memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.dead_runs import DeadRuns
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.ranges import contiguous_ranges, held_back
from embed_pipeline.orchestration.runs import RUNS_COUNT_FOR, runs_of_asset
from embed_pipeline.orchestration.task_statuses import StatusSurvey, survey
from embed_pipeline.orchestration.versions import Outcome


def build_embedding_ready_sensor(
    *, blueprint: Blueprint, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING
) -> dg.SensorDefinition:
    """The sensor ``embedding_ready_sensor``: requests ``segment_embeddings`` for the tasks that have ended.

    Args:
        blueprint: The pipeline.
        default_status: Whether it runs without being switched on.
    """
    # When a task was submitted never changes, so what was read of it in this process need not be read again. Which
    # tasks are pending is not kept: that is computed at each tick.
    read_before: dict[str, Pending] = {}

    @dg.sensor(
        name=blueprint.names.plain("embedding_ready_sensor"),
        job_name=blueprint.names.collect_job,
        minimum_interval_seconds=blueprint.policy.sensor_interval_sec,
        default_status=default_status,
        required_resource_keys={blueprint.client_key},
        description=(
            "Asks the platform which tasks have ended and requests their collection, oldest first. What is pending is "
            "read from the event log at each tick: the sensor remembers nothing."
        ),
    )
    def embedding_ready_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return Readiness(blueprint, context, read_before).tick()

    return embedding_ready_sensor


def pending_tasks(
    tasks: Mapping[str, str], embedded: Mapping[str, str], outcomes: Mapping[str, Outcome]
) -> dict[str, str]:
    """The media files whose latest task has neither segments in the dataset nor an outcome, with that task's version.

    Args:
        tasks: The latest task of each media file.
        embedded: The task whose segments are in the dataset.
        outcomes: The latest outcome of each media file.
    """
    return {
        key: version
        for key, version in tasks.items()
        if embedded.get(key) != version and not (key in outcomes and outcomes[key].subject == version)
    }


@dataclass(frozen=True)
class Pending:
    """A task that may have ended.

    Args:
        task_id: The platform's id.
        submitted_at: When it was created.
        platform: Where, as the ledger names it.
    """

    task_id: str
    submitted_at: datetime
    platform: str


def ended(pending: Mapping[str, Pending], found: StatusSurvey) -> list[str]:
    """The keys whose tasks have ended, oldest task first: ready, failed, or not listed any more."""
    keys = [key for key, task in pending.items() if found.has_ended(task.task_id)]
    return sorted(keys, key=lambda key: pending[key].submitted_at)


class Readiness:
    """One tick of the sensor.

    Args:
        blueprint: The pipeline.
        context: The tick.
        read_before: What is known of tasks, by version, from earlier ticks of this process; only what saves reading.
    """

    def __init__(
        self, blueprint: Blueprint, context: dg.SensorEvaluationContext, read_before: dict[str, Pending]
    ) -> None:
        self._blueprint = blueprint
        self._context = context
        self._read_before = read_before
        self._ledger = Ledger(context.instance, blueprint.names)

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        """Compute what is pending, ask the platform about it, and request what can be collected."""
        policy, names, now = self._blueprint.policy, self._blueprint.names, datetime.now(UTC)
        DeadRuns(self._context.instance, names, policy, self._context.log.warning).end(now=now)
        order = self._ledger.partitions()
        # Runs first: one that ends before the ledger is read has left its events there, and its files count as done.
        runs = runs_of_asset(
            self._context.instance, names.segment_embeddings, [names.collect_job], order, since=now - RUNS_COUNT_FOR
        )
        versions = pending_tasks(
            self._ledger.task_versions(), self._ledger.embedded_versions(), self._ledger.outcomes()
        )
        versions = {key: versions[key] for key in order if key in versions}
        if not versions:
            return dg.SkipReason("No task is pending.")
        pending = self._pending({key: version for key, version in versions.items() if key not in runs.in_flight})
        # Another platform does not know a task of the one that was used before, which is no sign that it ended.
        platform = self._blueprint.client_resource(self._context.resources).platform
        elsewhere = Counter(task.platform for task in pending.values() if task.platform != platform)
        pending = {key: task for key, task in pending.items() if task.platform == platform}
        # A run that failed before the task was created had to do with another one.
        since = {key: task.submitted_at for key, task in pending.items()}
        waiting = held_back(runs.failed, policy.retry_backoff_sec, now, since=since)
        pending = {key: task for key, task in pending.items() if key not in waiting}
        try:
            resource = self._blueprint.client_resource(self._context.resources)
            # One request that is answered late, and sent again, must not outlast the tick.
            with resource.client(patience_sec=policy.tick_budget_sec / 5) as client:
                found = survey(
                    client,
                    {task.task_id: task.submitted_at for task in pending.values()},
                    budget_sec=policy.tick_budget_sec,
                )
        except EmbedPipelineError as error:
            return _not_asked(len(versions), error)
        if found.problem is not None and not found.statuses:
            return _not_asked(len(versions), found.problem)
        keys = ended(pending, found)
        ranges = sorted(
            contiguous_ranges(keys, order, policy.partitions_per_run),
            key=lambda some: min(pending[key].submitted_at for key in some.keys),
        )
        chosen = ranges[: policy.runs_per_tick]
        summary = (
            f"{len(versions)} tasks pending, {len(keys)} of them ended, "
            f"{len(runs.in_flight & versions.keys())} in runs under way, "
            f"{len(waiting.keys() & versions.keys())} waiting after a failed run; "
            f"{len(chosen)} runs requested for {sum(len(some.keys) for some in chosen)} media files"
            + ("." if found.complete else "; the rest is looked at in the next tick.")
            + (f" The platform could not be asked for all: {found.problem}" if found.problem else "")
            + "".join(
                f" {count} tasks were created on {other}, and this pipeline asks {platform}: set EMBED_BASE_URL and "
                "EMBED_API_KEY back to collect them, or materialize embedding_tasks anew."
                for other, count in elsewhere.items()
            )
        )
        self._context.log.info(summary)
        if not chosen:
            return dg.SkipReason(summary)
        return dg.SensorResult(run_requests=[dg.RunRequest(tags=some.tags) for some in chosen])

    def _pending(self, versions: Mapping[str, str]) -> dict[str, Pending]:
        """The task of each key; its event is read at the first tick that meets it."""
        unread = [key for key, version in versions.items() if version not in self._read_before]
        for record in self._ledger.latest_tasks(unread).values():
            self._read_before[record.version] = Pending(record.task_id, record.submitted_at, record.platform)
        wanted = set(versions.values())
        for version in self._read_before.keys() - wanted:
            del self._read_before[version]
        return {key: self._read_before[version] for key, version in versions.items() if version in self._read_before}


def _not_asked(pending: int, problem: EmbedPipelineError) -> dg.SkipReason:
    return dg.SkipReason(f"{pending} tasks are pending, but the platform could not be asked: {problem}")
