"""What the platform says of many tasks, with as few requests as it can be learned."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from embed_pipeline.orchestration.adoption import whole_seconds

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient

_SKEW = timedelta(minutes=2)


@dataclass(frozen=True)
class StatusSurvey:
    """What a walk through the platform's list found.

    Args:
        statuses: The status of each task that was found, by id.
        complete: Whether the walk reached the oldest task; if so, what was not found is not listed any more.
    """

    statuses: Mapping[str, str]
    complete: bool


def survey(
    client: EmbedClient, submitted: Mapping[str, datetime], *, now: datetime, budget_sec: float | None = None
) -> StatusSurvey:
    """Ask the list, newest first, for the status of these tasks.

    Args:
        client: The platform.
        submitted: When each task was submitted, by id.
        now: The time of asking; tasks created later do not shift the pages.
        budget_sec: Seconds after which the walk ends where it is.
    """
    if not submitted:
        return StatusSurvey({}, complete=True)
    deadline = None if budget_sec is None else time.monotonic() + budget_sec
    found: dict[str, str] = {}
    for task in client.v_2.tasks.list(
        started_at=whole_seconds(min(submitted.values()) - _SKEW),
        ended_at=whole_seconds(now + _SKEW),
        page_limit=50,
    ):
        if task.id is not None and task.id in submitted:
            found[task.id] = task.status or "processing"
            if len(found) == len(submitted):
                break
        if deadline is not None and time.monotonic() > deadline:
            return StatusSurvey(found, complete=False)
    return StatusSurvey(found, complete=True)
