"""The rows of the dataset's ``media`` table: what became of each media file, from what the ledger holds of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from embed_pipeline.orchestration.ledger import Ledger, LoggedOutcome, LoggedResult
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.states import MediaState
from embed_pipeline.orchestration.versions import content_of

if TYPE_CHECKING:
    from embed_pipeline.dataset import EmbeddingDataset, MediaOutcome


def current_outcomes(ledger: Ledger, dataset: EmbeddingDataset, since: int) -> list[MediaOutcome]:
    """The outcome of every media file that has a partition, in key order.

    Only media files of which something was told since then are read from the event log; the others are taken from the
    table as it is. Where the table is not there, everything is read.

    Args:
        ledger: The event log's view.
        dataset: Where the table is.
        since: The ledger's position when the table was written.
    """
    from embed_pipeline.dataset import MediaOutcome

    states = ledger.states()
    rows = {str(row["media"]): MediaOutcome(**row) for row in dataset.read_outcomes().to_pylist()}
    changed = ledger.changed_since(since)
    # A state that differs for another reason, as after events were wiped, is read again too.
    todo = [key for key, state in states.items() if key in changed or key not in rows or rows[key].state != state.value]
    rows.update((row.media, row) for row in read_outcomes(ledger, states, todo))
    return [rows[key] for key in states]


def read_outcomes(ledger: Ledger, states: Mapping[str, MediaState], keys: Collection[str]) -> Iterator[MediaOutcome]:
    """The outcomes of some media files, read from the event log."""
    versions = ledger.media_versions()
    media, tasks, results = ledger.latest_media(keys), ledger.task_records(keys), ledger.latest_results(keys)
    troubled = [key for key in keys if states[key] in {MediaState.FAILED, MediaState.EXPIRED}]
    outcomes = ledger.logged_outcomes(troubled)
    for key in keys:
        yield outcome_row(
            key,
            states[key],
            versions.get(key),
            media.get(key, {}),
            tasks.get(key, []),
            results.get(key),
            outcomes.get(key),
        )


def outcome_row(
    key: str,
    state: MediaState,
    version: str | None,
    media: Mapping[str, Any],
    tasks: list[TaskRecord],
    result: LoggedResult | None,
    outcome: LoggedOutcome | None,
) -> MediaOutcome:
    """The row of one media file.

    Args:
        key: Its partition key.
        state: The state it is in.
        version: Its content, as discovery last told it.
        media: What discovery told of it.
        tasks: The tasks that served it, latest first.
        result: The event that told of its segments.
        outcome: The event that told why it has none.
    """
    from embed_pipeline.dataset import MediaOutcome

    task = tasks[0] if tasks else None
    found: Mapping[str, Any] = result.metadata if result is not None else {}
    # What an earlier content left in the dataset says nothing of a task that is under way.
    current = task is not None and found.get("embed_pipeline/task_id") == task.task_id
    duration = found.get("embed_pipeline/media_sec") if current else None
    if duration is None and task is not None and task.minutes is not None:
        duration = task.minutes * 60
    ready_at = found.get("embed_pipeline/ready_at") if current else None
    embedded = state is MediaState.EMBEDDED
    return MediaOutcome(
        media=key,
        media_uri=str(media.get("dagster/uri") or (task.media_uri if task else "")),
        state=state.value,
        fingerprint=content_of(version) if version else None,
        media_type=media.get("embed_pipeline/media_type"),
        duration_sec=duration,
        error=(outcome.message or "no reason was given") if outcome is not None else None,
        attempts=task.attempt if task else 0,
        task_id=task.task_id if task else None,
        segments=found.get("embed_pipeline/segments") if embedded else None,
        space=found.get("embed_pipeline/space") if embedded else None,
        settings_digest=task.settings_digest if task else None,
        submitted_at=task.submitted_at if task else None,
        finished_at=None if ready_at is None else datetime.fromtimestamp(ready_at, tz=UTC),
        embedded_at=result.at if embedded and result is not None else None,
        minutes_billed=_minutes_billed(tasks),
    )


def _minutes_billed(tasks: list[TaskRecord]) -> float | None:
    """The minutes of the tasks that were created for this media file; one that it shares is billed where it began."""
    created = {task.task_id: task.minutes for task in tasks if task.how != "re-attached"}
    known = [minutes for minutes in created.values() if minutes is not None]
    return sum(known) if len(known) == len(created) else None
