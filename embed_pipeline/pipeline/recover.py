"""Recovery of claims whose lease has lapsed: the platform's list tells whether their tasks were created."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.ledger import OutboxRow, TaskRow, TaskState
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.settings import MediaType, settings_of
from embed_pipeline.pipeline.sources import compared_request, source_refs, uploads_named

if TYPE_CHECKING:
    from embed_pipeline.client import CreateSearch


IN_DOUBT = "it is not known whether the platform carries out a request whose answer was lost; its task is looked for"


@dataclass(frozen=True)
class Recovery:
    """What became of some lapsed claims, by row.

    Args:
        adopted: Claims whose task was found, with its id.
        cleared: Claims whose request created nothing; they are this process's own now.
        in_doubt: Claims of which it cannot be told yet, with the seconds until it can.
        undecided: Claims of which it cannot be told at all, with the reason; a person may try again.
        changes: Changes that the run is to report.
    """

    adopted: dict[int, str] = field(default_factory=dict)
    cleared: list[TaskRow] = field(default_factory=list)
    in_doubt: dict[int, float] = field(default_factory=dict)
    undecided: dict[int, str] = field(default_factory=dict)
    changes: list[OutboxRow] = field(default_factory=list)


def recover(
    pipeline: PipelineContext,
    lapsed: Sequence[TaskRow],
    *,
    owner: str,
    run_id: str | None = None,
    own: Collection[str] | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Recovery:
    """Take over lapsed claims, and look for their tasks in the platform's list.

    Args:
        pipeline: The pipeline.
        lapsed: The claims, as the ledger had them.
        owner: The process that takes them over.
        run_id: The run that reports the changes; None leaves them to the next sensor tick.
        own: The partition keys that it reports.
        log: Called with what is worth reading in the run's log.

    Raises:
        ApiError: The list cannot be read; the claims stay as they are.
        LedgerError: The ledger cannot be reached.
    """
    ledger, client = pipeline.ledger, pipeline.connected()
    taken = ledger.tasks.take_over(lapsed, owner=owner, lease_sec=pipeline.policy.lease_sec)
    sent = [row for row in taken if row.sent_at is not None]
    recovery = Recovery(cleared=[row for row in taken if row.sent_at is None])
    if not sent:
        return recovery
    # Before the first page is asked for: what is created later is not in the answer.
    now = ledger.now()
    ahead_sec = time.time() - now
    try:
        results = client.v_2.tasks.find_created(
            [_search(pipeline, row, ahead_sec) for row in sent], known=ledger.tasks.known_ids
        )
    except BaseException:
        for row in taken:
            _give_back(pipeline, row, now)
        raise
    for row, result in zip(sent, results, strict=True):
        task = result.task
        if task is not None:
            listed_at = None if task.created_at is None else task.created_at.timestamp() - ahead_sec
            changes, duplicate = ledger.tasks.created(
                pipeline.target,
                row,
                task_id=str(task.id),
                lifetime_sec=pipeline.policy.result_lifetime_sec,
                origin="adopted",
                created_at=None if listed_at is None else min(listed_at - (client.clock_offset_sec or 0.0), now),
                run_id=run_id,
                own=own,
            )
            recovery.changes.extend(changes)
            if duplicate is None:
                recovery.adopted[row.id] = str(task.id)
                log(f"{row.key}: task {task.id}, which nobody had an answer about, is adopted.")
        elif result.undecided is not None:
            reason = (
                f"It is not known whether its task was created, and the platform's list does not tell. "
                f"{result.undecided} Look there, and submit it with force if none is its own."
            )
            recovery.undecided[row.id] = reason
            recovery.changes.extend(
                ledger.tasks.ended(pipeline.target, row, TaskState.FAILED, reason, run_id=run_id, own=own)
            )
        elif ledger.tasks.clear_doubt(row, looked_at=now):
            recovery.cleared.append(row)
        else:
            recovery.in_doubt[row.id] = _give_back(pipeline, row, now)
    return recovery


def recover_in_passing(pipeline: PipelineContext, *, owner: str) -> str:
    """Recover all lapsed claims of a pipeline within a sensor's tick; claims that created nothing are released.

    Args:
        pipeline: The pipeline.
        owner: The process.

    Returns:
        What was done in words; empty for nothing.
    """
    lapsed = pipeline.ledger.tasks.lapsed_claims(pipeline.platform, name=pipeline.name)
    if not lapsed:
        return ""
    try:
        recovery = recover(pipeline, lapsed, owner=owner)
    except EmbedPipelineError as error:
        return f"{len(lapsed)} lapsed claims could not be looked for: {error}"
    answers = True
    for row in recovery.cleared:
        # A platform that does not answer must not hold up the tick for each of them.
        answers = answers and discard_upload(pipeline, row)
        pipeline.ledger.tasks.release(row, discarded=answers)
    doubts = {row.key: (IN_DOUBT, recovery.in_doubt[row.id]) for row in lapsed if row.id in recovery.in_doubt}
    pipeline.ledger.media.defer(pipeline.name, doubts)
    parts = [
        f"{len(recovery.adopted)} tasks adopted",
        f"{len(recovery.cleared)} released",
        f"{len(recovery.in_doubt)} in doubt",
        *([f"{len(recovery.undecided)} left to a person"] if recovery.undecided else []),
    ]
    return f"{len(lapsed)} lapsed claims: {', '.join(parts)}"


def discard_upload(pipeline: PipelineContext, row: TaskRow, log: Callable[[str], None] = lambda _: None) -> bool:
    """Delete the upload of a claim that created no task, so that nothing is left on the platform.

    Returns:
        Whether nothing is left.
    """
    if row.source_filename is None:
        return True
    client = pipeline.connected()
    try:
        ids = [row.asset_id] if row.asset_id is not None else []
        for asset_id in ids or [str(asset.id) for asset in uploads_named(client, row.source_filename)]:
            # Once more and no oftener: a platform that does not answer must not hold up the end of a run.
            client.assets.delete(asset_id, request_options={"max_retries": 1})
    except EmbedPipelineError as error:
        log(f"{row.key}: the upload {row.source_filename} is not needed and could not be deleted: {error}")
        return False
    return True


def _search(pipeline: PipelineContext, row: TaskRow, ahead_sec: float) -> CreateSearch:
    from embed_pipeline.client import CreateSearch

    media_type: MediaType = "audio" if row.media_type == "audio" else "video"
    since = datetime.fromtimestamp((row.sent_at or row.claimed_at) + ahead_sec, tz=UTC)
    return CreateSearch(
        request=compared_request(settings_of(row).request(media_type), row.source_url or "https://media.invalid/"),
        sources=source_refs(row, pipeline.library),
        since=since,
    )


def _give_back(pipeline: PipelineContext, row: TaskRow, now: float) -> float:
    """Let a claim lapse at once, and return the seconds until its time of doubt is over."""
    left_sec = max((row.in_doubt_until or now) - now, 0.0)
    pipeline.ledger.tasks.leave_in_doubt(row, doubt_sec=left_sec)
    return left_sec
