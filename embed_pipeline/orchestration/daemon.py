"""In-process daemon: ticks sensors and runs what they request, until nothing is left to do.

For the demo and for tests, where starting processes would cost more than the work. It goes through the definitions'
own sensors, jobs and assets, in the order in which the daemon does: events, partitions, runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from embed_pipeline.orchestration.blueprint import PipelineNames

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Tick:
    """What came of one tick.

    Args:
        message: What the sensor said, if it asked for nothing.
        runs: The runs it asked for, as they ended.
    """

    message: str | None
    runs: tuple[dg.ExecuteInProcessResult, ...]

    @property
    def failures(self) -> list[str]:
        """The words of the runs that failed."""
        return [words for run in self.runs if (words := failure_in_words(run)) is not None]


class InProcessDaemon:
    """Runs one pipeline's sensors and their requests in this process.

    Args:
        definitions: The pipeline's definitions.
        instance: The Dagster instance that keeps its events.
        names: The pipeline's names.
        on_run: Told of each run before it starts, by job name and tags.
    """

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        names: PipelineNames,
        on_run: Callable[[str, dict[str, str]], None] = lambda _job, _tags: None,
    ) -> None:
        self._definitions = definitions
        self._repository = definitions.get_repository_def()
        self._instance = instance
        self._names = names
        self._on_run = on_run
        self._cursors: dict[str, str | None] = {}

    def discover(self) -> Tick:
        """Tick `media_discovery_sensor`."""
        return self.tick(self._names.plain("media_discovery_sensor"))

    def collect_ready(self) -> Tick:
        """Tick `embedding_ready_sensor`."""
        return self.tick(self._names.plain("embedding_ready_sensor"))

    def refresh_table(self) -> Tick:
        """Tick `embeddings_table_sensor`."""
        return self.tick(self._names.plain("embeddings_table_sensor"))

    def tick(self, sensor_name: str) -> Tick:
        """Evaluate one sensor once and do all that it asks for."""
        sensor = self._repository.get_sensor_def(sensor_name)
        with dg.build_sensor_context(
            instance=self._instance,
            definitions=self._definitions,
            resources=dict(self._definitions.resources or {}),
            cursor=self._cursors.get(sensor_name),
        ) as context:
            answer = sensor.evaluate_tick(context)
        self._cursors[sensor_name] = answer.cursor
        for event in answer.asset_events:
            self._instance.report_runless_asset_event(event)
        for request in answer.dynamic_partitions_requests or []:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self._instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    self._instance.delete_dynamic_partition(request.partitions_def_name, key)
        requests = answer.run_requests or []
        runs = tuple(self.run(str(one.job_name or sensor.job_name), dict(one.tags)) for one in requests)
        return Tick(answer.skip_message, runs)

    def run(
        self, job_name: str, tags: dict[str, str], ops: Mapping[str, Any] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Run a job in this process; a failure is in the result, not raised.

        Args:
            job_name: The job.
            tags: The run's tags, which name its partitions.
            ops: The configuration of its steps, by name.
        """
        self._on_run(job_name, tags)
        result = self._repository.get_job(job_name).execute_in_process(
            instance=self._instance,
            tags=tags,
            run_config={**_QUIET, "ops": dict(ops)} if ops else _QUIET,
            raise_on_error=False,
        )
        if _was_interrupted(result):
            # Dagster keeps an interrupt of a run to itself; whoever drives it is to stop as well.
            raise KeyboardInterrupt
        return result


def failure_in_words(run: dg.ExecuteInProcessResult) -> str | None:
    """Why a run failed, as the run itself told it; None for one that did not.

    Args:
        run: The run.
    """
    if run.success:
        return None
    for event in run.all_node_events:
        if event.is_step_failure:
            told = event.step_failure_data
            if told.user_failure_data is not None and told.user_failure_data.description:
                return told.user_failure_data.description
            if told.error is not None:
                # The error that was raised, not Dagster's "Error occurred while executing op" around it.
                return (told.error.cause or told.error).message.strip()
    return f"The run {run.run_id} failed before its first step."


def _was_interrupted(run: dg.ExecuteInProcessResult) -> bool:
    failures = [event.job_failure_data for event in run.all_events if event.is_job_failure]
    reasons = [failure.failure_reason for failure in failures if failure.failure_reason is not None]
    return any(reason.value == "UNEXPECTED_TERMINATION" for reason in reasons)
