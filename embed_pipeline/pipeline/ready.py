"""Readiness: which tasks have ended, learned from few pages of the platform's list."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.ledger import TaskState
from embed_pipeline.ledger.ledger import PendingFile
from embed_pipeline.pipeline.context import EmbeddingPipeline

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient

# A task is recorded when its request was answered, which may be long after the platform made it.
_RECORDED_LATE = timedelta(minutes=15)
_SKEW = timedelta(minutes=2)
_LONGEST_WINDOW = timedelta(hours=1)
_TASKS_PER_WINDOW = 2500


@dataclass(frozen=True)
class StatusSurvey:
    """Outcome of a walk through the platform's list.

    Args:
        statuses: The status of each task that was found, by id.
        unlisted: Tasks that are not listed any more, where they would have been.
        complete: Whether every task was looked for.
        problem: What ended the walk early, if the platform did.
    """

    statuses: Mapping[str, str]
    unlisted: frozenset[str] = frozenset()
    complete: bool = True
    problem: EmbedPipelineError | None = None

    def has_ended(self, task_id: str) -> bool:
        """Return whether a task is ready, has failed, or is not listed any more."""
        return self.statuses.get(task_id) in {"ready", "failed"} or task_id in self.unlisted


@dataclass(frozen=True, slots=True)
class Window:
    """A span of the list in which some tasks are.

    Args:
        start: Listed from here on.
        end: Listed up to here.
        task_ids: The tasks.
    """

    start: datetime
    end: datetime
    task_ids: tuple[str, ...]


@dataclass(frozen=True)
class Readiness:
    """What can be collected.

    Args:
        pending: Media files whose task has no segments yet.
        ended: Those whose results can be fetched and that no run works on, oldest task first.
        busy: How many others are in runs, or were requested.
        elsewhere: How many tasks were created on another platform, by platform.
        complete: Whether all were looked at.
        problem: Why the platform could not be asked for all.
    """

    pending: int
    ended: Sequence[PendingFile] = ()
    busy: int = 0
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True
    problem: EmbedPipelineError | None = None


def windows(created: Mapping[str, datetime], *, ahead_sec: float = 0.0) -> list[Window]:
    """Return where in the list some tasks are, oldest first: in as little of it as holds them all.

    Args:
        created: When each task was recorded, by id, by our clock.
        ahead_sec: How far the platform's clock is ahead of ours, in seconds.

    Returns:
        Spans of the platform's time that do not overlap. Where tasks were recorded close together they join.
    """
    shift = timedelta(seconds=ahead_sec)
    before, after = _RECORDED_LATE - min(shift, timedelta()), _SKEW + max(shift, timedelta())
    found: list[Window] = []
    start = first = previous = datetime.min.replace(tzinfo=UTC)
    task_ids: list[str] = []
    for task_id, at in sorted(created.items(), key=lambda item: item[1]):
        if task_ids and at - previous > before + after:
            found.append(_window(start, previous + after, task_ids))
            task_ids = []
        if not task_ids:
            start, first = at - before, at
        elif len(task_ids) >= _TASKS_PER_WINDOW or at - first > _LONGEST_WINDOW:
            found.append(_window(start, at, task_ids))
            start, first, task_ids = at, at, []
        task_ids.append(task_id)
        previous = at
    if task_ids:
        found.append(_window(start, previous + after, task_ids))
    return found


def survey(client: EmbedClient, created: Mapping[str, datetime], *, budget_sec: float | None = None) -> StatusSurvey:
    """Ask the platform's list for the status of some tasks, the oldest first.

    So the results that expire first are seen first, and what was listed since for others is not walked through.

    Args:
        client: The platform.
        created: When each task was created, by id.
        budget_sec: Seconds after which the walk ends where it is.

    Returns:
        What was found, also where the platform ended the walk with an error.
    """
    deadline = None if budget_sec is None else time.monotonic() + budget_sec
    statuses: dict[str, str] = {}
    looked_for: set[str] = set()
    ahead_sec = client.clock_offset_sec
    todo = deque(windows(created, ahead_sec=ahead_sec or 0.0))
    problem = None
    while todo:
        try:
            through = _walk(client, todo[0], created, statuses, deadline)
        except EmbedPipelineError as error:
            problem = error
            break
        offset = client.clock_offset_sec
        if ahead_sec is None and offset is not None and abs(offset) > _SKEW.total_seconds() / 2:
            # By our clock the tasks were looked for at another time than the platform has for them.
            todo = deque(windows(created, ahead_sec=offset))
        elif through:
            looked_for.update(todo.popleft().task_ids)
        else:
            break
        ahead_sec = offset
    return StatusSurvey(statuses, frozenset(looked_for - statuses.keys()), complete=not todo, problem=problem)


def look_for_ended(pipeline: EmbeddingPipeline, *, budget_sec: float | None = None) -> Readiness:
    """Find the tasks that have ended, and record that in the ledger, so that the platform is asked once for each.

    Args:
        pipeline: The pipeline, with a client.
        budget_sec: Seconds that the platform may be asked for.

    Raises:
        LedgerError: The ledger cannot be reached.
    """
    pending = pipeline.ledger.pending(pipeline.name)
    free = [file for file in pending if file.is_free]
    ours = [file for file in free if file.platform == pipeline.platform]
    # Another platform does not know a task of the one that was used before, which is no sign that it ended.
    elsewhere = Counter(file.platform for file in free if file.platform != pipeline.platform)
    processing = {file.task_id: file for file in ours if file.state is TaskState.PROCESSING}
    found = StatusSurvey({})
    if processing:
        created = {task_id: datetime.fromtimestamp(file.created_at, tz=UTC) for task_id, file in processing.items()}
        found = survey(pipeline.connected(), created, budget_sec=budget_sec)
        pipeline.ledger.tasks.mark_ready([file.row_id for file in processing.values() if found.has_ended(file.task_id)])
    ended = [file for file in ours if file.state is not TaskState.PROCESSING or found.has_ended(file.task_id)]
    return Readiness(len(pending), ended, len(pending) - len(free), elsewhere, found.complete, found.problem)


def _walk(
    client: EmbedClient,
    window: Window,
    created: Mapping[str, datetime],
    statuses: dict[str, str],
    deadline: float | None,
) -> bool:
    """Note what is listed in a window, newest first, until its tasks are found; return whether it got through."""
    missing = set(window.task_ids) - statuses.keys()
    if not missing:
        return True
    for task in client.v_2.tasks.list(started_at=window.start, ended_at=window.end, page_limit=50):
        if task.id is not None and task.id in created:
            statuses[task.id] = task.status or "processing"
            missing.discard(task.id)
            if not missing:
                return True
        if deadline is not None and time.monotonic() > deadline:
            return False
    return True


def _window(start: datetime, end: datetime, task_ids: Sequence[str]) -> Window:
    return Window(_whole_seconds(start), _whole_seconds(end), tuple(task_ids))


def _whole_seconds(at: datetime) -> datetime:
    """Return the time without its fraction, as the list filters take it."""
    return at.astimezone(UTC).replace(microsecond=0)
