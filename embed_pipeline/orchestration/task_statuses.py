"""What the platform says of many tasks, with few requests: the oldest tasks first, and only where they are listed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.orchestration.adoption import whole_seconds

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient

# A task is noted when its request was answered, which may be long after the platform made it: a request that timed out
# is looked for in the list.
_NOTED_LATE = timedelta(minutes=15)
_SKEW = timedelta(minutes=2)
_LONGEST_STRETCH = timedelta(hours=1)
_TASKS_PER_STRETCH = 2500


@dataclass(frozen=True)
class StatusSurvey:
    """What a walk through the platform's list found.

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
        """Whether a task is ready, has failed, or is not listed any more."""
        return self.statuses.get(task_id) in {"ready", "failed"} or task_id in self.unlisted


@dataclass(frozen=True, slots=True)
class Stretch:
    """A span of time in which some tasks were noted.

    Args:
        start: Listed from here on.
        end: Listed up to here.
        task_ids: The tasks that were noted in it.
    """

    start: datetime
    end: datetime
    task_ids: tuple[str, ...]


def stretches(submitted: Mapping[str, datetime], *, ahead_sec: float = 0.0) -> list[Stretch]:
    """Where in the list these tasks are, oldest first: in as little of it as holds them all.

    Args:
        submitted: When each task was noted, by id: by our clock, or by the platform's for one that was adopted.
        ahead_sec: How far the platform's clock is ahead of ours, in seconds.

    Returns:
        Spans of the platform's time that do not overlap. Where tasks were noted close together they join without a gap.
    """
    shift = timedelta(seconds=ahead_sec)
    before, after = _NOTED_LATE - min(shift, timedelta()), _SKEW + max(shift, timedelta())
    found: list[Stretch] = []
    start = first = previous = datetime.min.replace(tzinfo=UTC)
    task_ids: list[str] = []
    for task_id, at in sorted(submitted.items(), key=lambda item: item[1]):
        if task_ids and at - previous > before + after:
            found.append(_stretch(start, previous + after, task_ids))
            task_ids = []
        if not task_ids:
            start, first = at - before, at
        elif len(task_ids) >= _TASKS_PER_STRETCH or at - first > _LONGEST_STRETCH:
            found.append(_stretch(start, at, task_ids))
            start, first, task_ids = at, at, []
        task_ids.append(task_id)
        previous = at
    if task_ids:
        found.append(_stretch(start, previous + after, task_ids))
    return found


def survey(client: EmbedClient, submitted: Mapping[str, datetime], *, budget_sec: float | None = None) -> StatusSurvey:
    """Ask the platform's list for the status of these tasks, those that were submitted first before the others.

    So the results that expire first are seen first, and what was listed since for others is not walked through.

    Args:
        client: The platform.
        submitted: When each task was submitted, by id.
        budget_sec: Seconds after which the walk ends where it is.

    Returns:
        What was found, also where the platform ended the walk with an error.
    """
    deadline = None if budget_sec is None else time.monotonic() + budget_sec
    statuses: dict[str, str] = {}
    looked_for: set[str] = set()
    ahead_sec = client.clock_offset_sec
    todo = deque(stretches(submitted, ahead_sec=ahead_sec or 0.0))
    problem = None
    while todo:
        try:
            through = _walk(client, todo[0], submitted, statuses, deadline)
        except EmbedPipelineError as error:
            problem = error
            break
        learnt = client.clock_offset_sec
        if ahead_sec is None and learnt is not None and abs(learnt) > _SKEW.total_seconds() / 2:
            # By our clock the tasks were looked for at another time than the platform has for them.
            todo = deque(stretches(submitted, ahead_sec=learnt))
        elif through:
            looked_for.update(todo.popleft().task_ids)
        else:
            break
        ahead_sec = learnt
    return StatusSurvey(statuses, frozenset(looked_for - statuses.keys()), complete=not todo, problem=problem)


def _walk(
    client: EmbedClient,
    stretch: Stretch,
    submitted: Mapping[str, datetime],
    statuses: dict[str, str],
    deadline: float | None,
) -> bool:
    """Note what is listed in a stretch, newest first, until its tasks are found; whether it got through."""
    missing = set(stretch.task_ids) - statuses.keys()
    if not missing:
        return True
    for task in client.v_2.tasks.list(started_at=stretch.start, ended_at=stretch.end, page_limit=50):
        if task.id is not None and task.id in submitted:
            statuses[task.id] = task.status or "processing"
            missing.discard(task.id)
            if not missing:
                return True
        if deadline is not None and time.monotonic() > deadline:
            return False
    return True


def _stretch(start: datetime, end: datetime, task_ids: Sequence[str]) -> Stretch:
    return Stretch(whole_seconds(start), whole_seconds(end), tuple(task_ids))
