"""What became of each media file, in words: the rows behind ``embed-pipeline status`` and the demo's table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg

from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.states import MediaState


@dataclass(frozen=True, slots=True)
class MediaStatus:
    """One media file's state.

    Args:
        media: The partition key.
        state: The one state it is in.
        reason: Why it failed or expired, or what it waits for; empty otherwise.
        task_id: Its latest task.
        attempt: Which attempt on its content that is.
        segments: Rows in the dataset.
        minutes: Its length in minutes, where known.
        uri: Where its segments are.
    """

    media: str
    state: MediaState
    reason: str = ""
    task_id: str | None = None
    attempt: int | None = None
    segments: int | None = None
    minutes: float | None = None
    uri: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        return {**asdict(self), "state": self.state.value}


def read_statuses(instance: dg.DagsterInstance, names: PipelineNames) -> list[MediaStatus]:
    """The status of every media file that has a partition, in key order."""
    ledger = Ledger(instance, names)
    states = ledger.states()
    tasks = ledger.latest_tasks([key for key, state in states.items() if state is not MediaState.UNSUBMITTED])
    results = ledger.latest_results([key for key, state in states.items() if state in _WITH_RESULT])
    troubled = [key for key, state in states.items() if state in {MediaState.FAILED, MediaState.EXPIRED}]
    outcomes = ledger.logged_outcomes(troubled)
    rows = []
    for key, state in states.items():
        task = tasks.get(key)
        result: Mapping[str, Any] = results[key].metadata if key in results else {}
        rows.append(
            MediaStatus(
                media=key,
                state=state,
                reason=outcomes[key].message if key in outcomes else "",
                task_id=task.task_id if task else None,
                attempt=task.attempt if task else None,
                segments=result.get("embed_pipeline/segments"),
                minutes=result.get("embed_pipeline/minutes", task.minutes if task else None),
                uri=result.get("dagster/uri"),
            )
        )
    return rows


def counts(rows: Iterable[MediaStatus]) -> dict[str, int]:
    """How many media files are in each state; every state is named."""
    found = Counter(row.state for row in rows)
    return {state.value: found.get(state, 0) for state in MediaState}


_WITH_RESULT = {MediaState.EMBEDDED, MediaState.GONE}
