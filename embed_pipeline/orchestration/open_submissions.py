"""Submissions of runs that died: the times in which tasks may have been created that no event tells of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from embed_pipeline.orchestration.names import PipelineNames

OPEN = "open"
SETTLED = "settled"

# How far the platform's clock is off is known to seconds only, and a request may be answered long after the run that
# sent it died.
_SKEW = timedelta(minutes=2)
_LATEST_ANSWER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, by our clock, in which tasks of ours may have been created without an event."""

    start: datetime
    end: datetime

    def by_a_clock_ahead(self, seconds: float) -> Window:
        """The same span as a clock tells it that is so many seconds ahead of ours."""
        ahead = timedelta(seconds=seconds)
        return Window(self.start + ahead, self.end + ahead)


def open_submission(instance: dg.DagsterInstance, names: PipelineNames, run_id: str) -> None:
    """Note, durably and before anything is sent, that this run is about to create tasks."""
    instance.add_run_tags(run_id, {names.submission_tag: OPEN})


def settle_submission(instance: dg.DagsterInstance, names: PipelineNames, run_id: str) -> None:
    """Note that every task this run created has its event."""
    instance.add_run_tags(run_id, {names.submission_tag: SETTLED})


@dataclass(frozen=True, slots=True)
class UnsettledRun:
    """A run that may have created tasks of which no event tells.

    Args:
        run_id: The run.
        window: When it may have created them.
        ended_at: When its end was noticed; None if it never was.
    """

    run_id: str
    window: Window
    ended_at: datetime | None

    def is_past(self, now: datetime) -> bool:
        """Whether nothing that it sent can be answered any more."""
        return self.ended_at is not None and now > self.ended_at + _LATEST_ANSWER


def unsettled_runs(
    instance: dg.DagsterInstance, names: PipelineNames, *, own_run_id: str | None, now: datetime, lifetime: timedelta
) -> list[UnsettledRun]:
    """The runs that did not settle what they submitted.

    Args:
        instance: The Dagster instance.
        names: The pipeline's names.
        own_run_id: A run whose own submission does not count; None if every run's does.
        now: The time of asking.
        lifetime: How long the platform lists a task.
    """
    records = instance.get_run_records(
        dg.RunsFilter(tags={names.submission_tag: OPEN}, created_after=now - lifetime - _SKEW)
    )
    runs = []
    for record in records:
        if record.dagster_run.run_id == own_run_id:
            continue
        start = datetime.fromtimestamp(record.start_time, tz=UTC) if record.start_time else record.create_timestamp
        ended_at = datetime.fromtimestamp(record.end_time, tz=UTC) if record.end_time else None
        # Its end is when its death was noticed; its last request may be answered a little later still.
        window = Window(start - _SKEW, min((ended_at or now) + _LATEST_ANSWER, now + _SKEW))
        runs.append(UnsettledRun(record.dagster_run.run_id, window, ended_at))
    return runs


def merged(windows: Sequence[Window]) -> list[Window]:
    """The same time without overlaps, earliest first."""
    result: list[Window] = []
    for window in sorted(windows, key=lambda window: window.start):
        if result and window.start <= result[-1].end:
            result[-1] = Window(result[-1].start, max(result[-1].end, window.end))
        else:
            result.append(window)
    return result
