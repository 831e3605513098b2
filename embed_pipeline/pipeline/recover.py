"""Recovery of claims whose lease has lapsed: the platform's list tells whether their tasks were created."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.ledger import OutboxRow, TaskRow
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.settings import MediaType, settings_of
from embed_pipeline.pipeline.sources import compared_request, source_refs

if TYPE_CHECKING:
    from embed_pipeline.client import CreateSearch


@dataclass(frozen=True)
class Recovery:
    """What became of some lapsed claims.

    Args:
        adopted: Claims whose task was found, with its id.
        cleared: Claims whose request created nothing; they are this process's own now.
        in_doubt: Claims of which it cannot be told yet, with the reason.
        undecided: Claims of which the list cannot tell at all, so that a person has to decide, with the reason.
        changes: Changes that the run is to report.
    """

    adopted: dict[int, str] = field(default_factory=dict)
    cleared: list[TaskRow] = field(default_factory=list)
    in_doubt: dict[int, str] = field(default_factory=dict)
    undecided: dict[int, str] = field(default_factory=dict)
    changes: list[OutboxRow] = field(default_factory=list)


def recover(
    pipeline: PipelineContext,
    lapsed: Sequence[TaskRow],
    *,
    owner: str,
    run_id: str | None = None,
    own: Collection[str] | None = None,
    insist: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> Recovery:
    """Take over lapsed claims, and look for their tasks in the platform's list.

    Args:
        pipeline: The pipeline.
        lapsed: The claims, as the ledger had them.
        owner: The process that takes them over.
        run_id: The run that reports the changes; None leaves them to the next sensor tick.
        own: The partition keys that it reports.
        insist: Whether a person pays for another task where it cannot be told from the list.
        log: Called with what is worth reading in the run's log.

    Raises:
        EmbedPipelineError: The list cannot be asked; the claims stay as they are.
    """
    ledger, policy, client = pipeline.ledger, pipeline.policy, pipeline.connected()
    recovery = Recovery()
    taken = ledger.tasks.take_over(lapsed, owner=owner, lease_sec=policy.lease_sec)
    sent = [row for row in taken if row.sent_at is not None]
    recovery.cleared.extend(row for row in taken if row.sent_at is None)
    if not sent:
        return recovery
    now, clock_sec = ledger.now(), time.time()
    try:
        results = client.v_2.tasks.find_created(
            [_search(row, clock_sec - now) for row in sent], known=ledger.tasks.known_ids
        )
    except BaseException:
        for row in sent:
            _give_back(pipeline, row, now)
        raise
    for row, result in zip(sent, results, strict=True):
        if result.task is not None and result.task.id is not None:
            task = result.task
            created_at = (
                None if task.created_at is None else task.created_at.timestamp() - (client.clock_offset_sec or 0.0)
            )
            changes, duplicate = ledger.tasks.created(
                pipeline.target,
                row,
                task_id=str(task.id),
                lifetime_sec=policy.result_lifetime_sec,
                origin="adopted",
                created_at=None if created_at is None else min(created_at - (clock_sec - now), now),
                run_id=run_id,
                own=own,
            )
            recovery.changes.extend(changes)
            if duplicate is None:
                recovery.adopted[row.id] = str(task.id)
                log(f"{row.key}: task {task.id} was created by a run that died, and is adopted.")
        elif result.undecided is not None and not insist:
            recovery.undecided[row.id] = (
                f"{result.undecided} It may be the task of a request whose answer was lost. Look at it; to pay for "
                "another one, submit it with force."
            )
            _give_back(pipeline, row, now)
        elif ledger.tasks.clear_doubt(row, looked_at=now, at_once=insist):
            recovery.cleared.append(row)
        else:
            recovery.in_doubt[row.id] = (
                "it is not known whether the platform has carried out a request whose answer was lost; it is looked "
                f"for until {datetime.fromtimestamp(row.in_doubt_until or now, tz=UTC):%H:%M:%S} UTC"
            )
            _give_back(pipeline, row, now)
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
    for row in recovery.cleared:
        discard_upload(pipeline, row)
        pipeline.ledger.tasks.release(row)
    in_doubt = recovery.in_doubt | recovery.undecided
    reasons = {row.key: (in_doubt[row.id], None) for row in lapsed if row.id in in_doubt}
    pipeline.ledger.media.defer(pipeline.name, reasons)
    return (
        f"{len(lapsed)} lapsed claims: {len(recovery.adopted)} tasks adopted, {len(recovery.cleared)} released, "
        f"{len(in_doubt)} in doubt"
    )


def discard_upload(pipeline: PipelineContext, row: TaskRow, log: Callable[[str], None] = lambda _: None) -> None:
    """Delete the upload of a claim that created no task, so that nothing is left on the platform."""
    client = pipeline.connected()
    try:
        if row.asset_id is not None:
            # Once more and no oftener: a platform that does not answer must not hold up the end of a run.
            client.assets.delete(row.asset_id, request_options={"max_retries": 1})
        elif row.source_filename is not None:
            for asset in client.assets.list(filename=row.source_filename):
                if asset.id and asset.filename == row.source_filename:
                    client.assets.delete(str(asset.id), request_options={"max_retries": 1})
    except EmbedPipelineError as error:
        log(f"{row.key}: the upload {row.source_filename} is not needed and could not be deleted: {error}")


def _search(row: TaskRow, ahead_sec: float) -> CreateSearch:
    from embed_pipeline.client import CreateSearch

    media_type: MediaType = "audio" if row.media_type == "audio" else "video"
    since = datetime.fromtimestamp((row.sent_at or row.claimed_at) + ahead_sec, tz=UTC)
    return CreateSearch(
        request=compared_request(settings_of(row).request(media_type), row.source_url or "https://media.invalid/"),
        sources=source_refs(row),
        since=since,
    )


def _give_back(pipeline: PipelineContext, row: TaskRow, now: float) -> None:
    pipeline.ledger.tasks.leave_in_doubt(row, doubt_sec=max((row.in_doubt_until or now) - now, 0.0))
