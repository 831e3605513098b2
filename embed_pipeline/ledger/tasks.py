"""Embedding tasks in the ledger: claims with leases, the platform's answers, and what became of each task."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from embed_pipeline.ledger import outbox
from embed_pipeline.ledger.database import Database, LedgerError
from embed_pipeline.ledger.media import (
    CHUNK,
    UNDEFERRED,
    attach,
    chunks,
    ensure_pipeline,
    failure_payload,
    insert_new,
    lock_files,
    names_of,
)
from embed_pipeline.ledger.outbox import OutboxRow
from embed_pipeline.ledger.rows import TASK_COLUMNS, task_of
from embed_pipeline.ledger.states import ENDED, SERVING, Step, TaskState, task_step, wanted_digest
from embed_pipeline.ledger.tables import media, pipeline, task
from embed_pipeline.ledger.values import (
    Claim,
    Claimed,
    ClaimOutcome,
    Content,
    Duplicate,
    Limits,
    Origin,
    Target,
    TaskRow,
    Written,
    to_json,
)

DAY_SEC = 86400.0
_PER_RUN = "max_minutes_per_run"
_PER_DAY = "max_minutes_per_day"
Ask = Literal["due", "failed", "force"]
"""What a claim may follow: what is due by itself, also what failed for good, or anything."""


class Tasks:
    """Tasks of all pipelines.

    Args:
        database: The ledger's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self,
        target: Target,
        claims: Sequence[Claim],
        *,
        run_id: str,
        owner: str,
        lease_sec: float,
        ask: Ask = "due",
        limits: Limits | None = None,
    ) -> dict[Content, Claimed | ClaimOutcome]:
        """Claim the right to create the tasks of some contents; whoever gets it may create, and nobody else.

        Args:
            target: The pipeline.
            claims: What to create, each content once.
            run_id: The run, or the first of its re-executions: what it created before serves it.
            owner: The process; a claim is its own alone.
            lease_sec: Seconds until the claim lapses unless it is renewed.
            ask: What the claims may follow.
            limits: Media minutes that may be spent.
        """
        with self._database.write() as (connection, now):
            ensure_pipeline(connection, target.pipeline)
            budget = _Budget(connection, now, target, run_id, limits)
            latest = _latest(connection, now, target, [claim.content for claim in claims], lock=True)
            open_claims = _open_claims(connection, now, claims)
            outcomes: dict[Content, Claimed | ClaimOutcome] = {}
            granted: dict[Content, tuple[Claim, TaskRow | None]] = {}
            for claim in claims:
                if claim.content in outcomes or claim.content in granted:
                    continue
                before, step = latest.get(claim.content, (None, Step.SUBMIT))
                if step is not Step.SUBMIT and before is not None and _may_follow(before, step, ask, run_id):
                    step = Step.SUBMIT
                other = open_claims.get((claim.key, claim.source_url))
                if step is not Step.SUBMIT:
                    outcomes[claim.content] = ClaimOutcome(step, before)
                elif other is not None and other.content != claim.content:
                    outcomes[claim.content] = ClaimOutcome(Step.WAIT, other)
                elif (reached := budget.reached(claim, before)) is not None:
                    outcomes[claim.content] = ClaimOutcome(Step.SUBMIT, before, reached)
                else:
                    budget.spend(claim, before)
                    granted[claim.content] = claim, before
            granted_at = {"run_id": run_id, "owner": owner, "claimed_at": now, "lease_until": now + lease_sec}
            return outcomes | _grant(connection, target, granted, granted_at, by_hand=ask != "due")

    def mark_sent(self, claimed: TaskRow, *, lease_sec: float, doubt_sec: float) -> bool:
        """Renew a claim just before its request is sent.

        Args:
            claimed: The claim.
            lease_sec: Seconds until it lapses; the request is sent within them.
            doubt_sec: Seconds after those for which the platform may still carry the request out, if nobody learns of
                its outcome.

        Returns:
            Whether the claim is still this process's own: if not, nothing may be sent.
        """
        with self._database.write() as (connection, now):
            renewed = connection.execute(
                sa.update(task)
                .where(*_own(claimed), task.c.lease_until > now)
                .values(lease_until=now + lease_sec, sent_at=now, in_doubt_until=now + lease_sec + doubt_sec)
            )
            return renewed.rowcount == 1

    def latest(self, target: Target, contents: Collection[Content]) -> dict[Content, tuple[TaskRow, Step]]:
        """Return the latest task of some contents, with the next step for each; those without a task are left out."""
        with self._database.read() as (connection, now):
            return _latest(connection, now, target, contents)

    def by_id(self, task_ids: Collection[str]) -> dict[str, TaskRow]:
        """Return tasks by the platform's id."""
        with self._database.read() as (connection, _):
            query = sa.select(*TASK_COLUMNS)
            found = (
                task_of(row)
                for part in chunks(task_ids)
                for row in connection.execute(query.where(task.c.task_id.in_(part)).order_by(task.c.id))
            )
            return {str(row.task_id): row for row in found if row is not None}

    def digests(self, name: str) -> set[str]:
        """Return the settings digests of all tasks that a pipeline ever had."""
        with self._database.read() as (connection, _):
            query = sa.select(task.c.settings_digest).where(task.c.pipeline == name).distinct()
            return {digest for (digest,) in connection.execute(query)}

    def ended_otherwise(self, target: Target, fingerprints: Collection[str]) -> dict[str, TaskRow]:
        """Return the latest task without a result that contents have under another configuration, by fingerprint."""
        with self._database.read() as (connection, _):
            query = sa.select(*TASK_COLUMNS).where(
                task.c.is_latest,
                task.c.state.in_([state.value for state in ENDED]),
                task.c.config_digest != target.config_digest,
            )
            found = (
                task_of(row)
                for part in chunks(fingerprints)
                for row in connection.execute(query.where(task.c.fingerprint.in_(part)).order_by(task.c.id))
            )
            return {row.content.fingerprint: row for row in found if row is not None}

    def clear_doubt(self, claimed: TaskRow, *, looked_at: float, at_once: bool = False) -> bool:
        """Record that a request whose outcome was unknown created nothing; the claim stays.

        Args:
            claimed: The claim.
            looked_at: When the platform was asked for the task, by the database's clock: before the first page of its
                list. What was created after that is not in the answer.
            at_once: Also while the platform may still carry the request out.

        Returns:
            Whether the claim is this process's own, and its time of doubt is over.
        """
        with self._database.write() as (connection, _):
            over = sa.or_(sa.literal(at_once), task.c.in_doubt_until.is_(None), task.c.in_doubt_until <= looked_at)
            cleared = connection.execute(
                sa.update(task).where(*_own(claimed), over).values(sent_at=None, in_doubt_until=None)
            )
            return cleared.rowcount == 1

    def renew(self, owner: str, *, lease_sec: float) -> None:
        """Extend the leases of all claims of a process, as while it uploads; what has lapsed stays lapsed."""
        with self._database.write() as (connection, now):
            live = task.c.owner == owner, task.c.state == TaskState.CLAIMED, task.c.lease_until > now
            _lock(connection, *live)
            connection.execute(sa.update(task).where(*live).values(lease_until=now + lease_sec))

    def note_upload(self, claimed: TaskRow, asset_id: str | None) -> bool:
        """Record the upload that was made under a claim, so that a recovery can use or delete it.

        Returns:
            Whether the claim is this process's own.
        """
        with self._database.write() as (connection, _):
            noted = connection.execute(sa.update(task).where(*_own(claimed)).values(asset_id=asset_id))
            return noted.rowcount == 1

    def release(self, claimed: TaskRow, *, discarded: bool = False) -> bool:
        """Give a claim back, because nothing was created and the content is not at fault.

        Args:
            claimed: The claim. One with an upload lapses, so that whoever takes it up can use what was uploaded.
            discarded: Whether nothing is left of an upload.

        Returns:
            Whether the claim was this process's own.
        """
        with self._database.write() as (connection, now):
            if claimed.source_filename is not None and not discarded:
                lapsed = sa.update(task).values(lease_until=now, sent_at=None, in_doubt_until=None)
                return connection.execute(lapsed.where(*_own(claimed))).rowcount == 1
            deleted = connection.execute(sa.delete(task).where(*_own(claimed)))
            if deleted.rowcount == 1 and claimed.attempt > 1:
                before = sa.select(sa.func.max(task.c.attempt)).where(_is(claimed.content)).scalar_subquery()
                connection.execute(
                    sa.update(task).where(_is(claimed.content), task.c.attempt == before).values(is_latest=True)
                )
            return deleted.rowcount == 1

    def leave_in_doubt(self, claimed: TaskRow, *, doubt_sec: float) -> None:
        """Let a claim lapse now, because it is not known whether a task was created.

        Args:
            claimed: The claim.
            doubt_sec: Seconds for which a task may still appear.
        """
        with self._database.write() as (connection, now):
            connection.execute(
                sa.update(task).where(*_own(claimed)).values(lease_until=now, in_doubt_until=now + doubt_sec)
            )

    def take_over(self, lapsed: Iterable[TaskRow], *, owner: str, lease_sec: float) -> list[TaskRow]:
        """Take over claims whose lease has lapsed; returns those that nobody else took meanwhile."""
        taken = []
        with self._database.write() as (connection, now):
            for row in sorted(lapsed, key=lambda one: one.id):
                found = connection.execute(
                    sa.update(task)
                    .where(task.c.id == row.id, task.c.state == TaskState.CLAIMED, task.c.lease_until <= now)
                    .values(owner=owner, fence=task.c.fence + 1, lease_until=now + lease_sec)
                    .returning(*TASK_COLUMNS)
                ).one_or_none()
                if found is not None and (own := task_of(found)) is not None:
                    taken.append(own)
        return taken

    def lapsed_claims(self, platform: str, *, name: str | None = None) -> list[TaskRow]:
        """Return the claims whose lease has lapsed, oldest first.

        Args:
            platform: The platform.
            name: Only those of this pipeline.
        """
        query = sa.select(*TASK_COLUMNS).where(
            task.c.state == TaskState.CLAIMED,
            task.c.platform == platform,
            *([task.c.pipeline == name] if name is not None else []),
        )
        with self._database.read() as (connection, now):
            rows = connection.execute(query.where(task.c.lease_until <= now).order_by(task.c.claimed_at))
            return [row for row in map(task_of, rows) if row is not None]

    def claims(self, name: str) -> int:
        """Return how many claims of a pipeline have no answer yet, lapsed ones included."""
        query = sa.select(sa.func.count()).where(task.c.state == TaskState.CLAIMED, task.c.pipeline == name)
        with self._database.read() as (connection, _):
            return int(connection.execute(query).scalar_one())

    def known_ids(self, task_ids: Collection[str]) -> set[str]:
        """Return those of some platform's task ids that the ledger has."""
        with self._database.read() as (connection, _):
            return {
                known
                for part in chunks(task_ids)
                for (known,) in connection.execute(sa.select(task.c.task_id).where(task.c.task_id.in_(part)))
            }

    def created(
        self,
        target: Target,
        claimed: TaskRow,
        *,
        task_id: str,
        lifetime_sec: float,
        origin: Origin = "created",
        created_at: float | None = None,
        own: Collection[str] | None = None,
        run_id: str | None = None,
    ) -> tuple[list[OutboxRow], Duplicate | None]:
        """Record the task that the platform created, and attach every media file of its content to it.

        Args:
            target: The pipeline.
            claimed: The claim.
            task_id: The platform's id.
            lifetime_sec: Seconds for which the platform keeps a result.
            origin: Whether the run created it or found it in the platform's list.
            created_at: When it was created, by the database's clock; None for now.
            own: The partition keys that the run reports.
            run_id: The run that reports them.

        Returns:
            The changes that the run is to report, and the duplicate if the claim was lost and another task serves.

        Raises:
            LedgerError: The task serves another content already.
        """
        with self._database.write() as (connection, now):
            at = created_at if created_at is not None else now
            values = {**_created(at, lifetime_sec, origin), "task_id": task_id}
            duplicate = _record_answer(connection, claimed, values)
            if duplicate is not None:
                return [], duplicate
            keys = names_of(connection, target, [claimed.content])
            return attach(connection, now, target, keys, run_id=run_id, own=own), None

    def created_together(
        self,
        target: Target,
        answers: Sequence[tuple[TaskRow, str]],
        *,
        lifetime_sec: float,
        own: Collection[str] | None = None,
        run_id: str | None = None,
    ) -> tuple[list[OutboxRow], set[int]]:
        """Record tasks that the platform created, those for claims that are still open, in one transaction.

        Args:
            target: The pipeline.
            answers: The claim of each, and the platform's id.
            lifetime_sec: Seconds for which the platform keeps a result.
            own: The partition keys that the run reports.
            run_id: The run that reports them.

        Returns:
            The changes that the run is to report, and the claims that were recorded. What the others came to is for
            `created` to tell.
        """
        with self._database.write() as (connection, now):
            ids = [claimed.id for claimed, _ in answers]
            is_open = sa.select(task.c.id).where(task.c.id.in_(ids), task.c.state == TaskState.CLAIMED)
            open_claims = set(connection.execute(is_open.order_by(task.c.id).with_for_update()).scalars())
            is_known = sa.select(task.c.task_id).where(task.c.task_id.in_([task_id for _, task_id in answers]))
            known = set(connection.execute(is_known).scalars())
            first = [
                (claimed, task_id)
                for claimed, task_id in {task_id: (claimed, task_id) for claimed, task_id in answers}.values()
                if claimed.id in open_claims and task_id not in known
            ]
            if not first:
                return [], set()
            connection.execute(
                sa.update(task)
                .where(task.c.id == sa.bindparam("of_id"))
                .values({**_created(now, lifetime_sec, "created"), "task_id": sa.bindparam("new_task_id")}),
                [{"of_id": claimed.id, "new_task_id": task_id} for claimed, task_id in first],
            )
            keys = names_of(connection, target, [claimed.content for claimed, _ in first])
            rows = attach(connection, now, target, keys, run_id=run_id, own=own)
            return rows, {claimed.id for claimed, _ in first}

    def attach(
        self, target: Target, keys: Collection[str], *, run_id: str | None = None, again: bool = False
    ) -> list[OutboxRow]:
        """Attach media files to the tasks that serve their contents.

        Args:
            target: The pipeline.
            keys: The media files.
            run_id: The run that reports the changes; None leaves them to the next sensor tick.
            again: Also report the files that are attached already.
        """
        with self._database.write() as (connection, now):
            return attach(connection, now, target, keys, run_id=run_id, again=again)

    def ended(
        self,
        target: Target,
        row: TaskRow,
        state: TaskState,
        error: str,
        *,
        retry_after_sec: float | None = None,
        own: Collection[str] | None = None,
        run_id: str | None = None,
    ) -> list[OutboxRow]:
        """Record that a claim or a task gives no result.

        Args:
            target: The pipeline.
            row: The claim or the task.
            state: `REFUSED` for a claim whose request created nothing; `FAILED`, `RETRYABLE` or `EXPIRED` for a task;
                `FAILED` also for a claim of which it cannot be told.
            error: Why, in words.
            retry_after_sec: Seconds until another attempt may follow.
            own: The partition keys that the run reports.
            run_id: The run that reports them.
        """
        if state not in ENDED:
            raise ValueError(f"{state} is no end")
        is_claim = state is TaskState.REFUSED or (state is TaskState.FAILED and row.state is TaskState.CLAIMED)
        condition = _own(row) if is_claim else (task.c.id == row.id, task.c.state.in_(SERVING))
        with self._database.write() as (connection, now):
            retry_at = None if retry_after_sec is None else now + retry_after_sec
            found = connection.execute(
                sa.update(task)
                .where(*condition)
                .values(state=state, error=error, ended_at=now, retry_at=retry_at, in_doubt_until=None)
                .returning(*TASK_COLUMNS)
            ).one_or_none()
            if found is None or (ended := task_of(found)) is None:
                return []
            keys = names_of(connection, target, [row.content])
            for part in chunks(keys):
                lock_files(connection, target.pipeline, part)
                connection.execute(
                    sa.update(media)
                    .where(media.c.pipeline == target.pipeline, media.c.key.in_(part))
                    .values(updated_at=now, run_id=None, lease_until=None, **UNDEFERRED)
                )
            changes: list[outbox.Change] = [("failure", key, failure_payload(ended)) for key in keys]
            return outbox.append(connection, now, target.pipeline, changes, run_id=run_id, own=own)

    def mark_ready(self, rows: Collection[int]) -> None:
        """Record that tasks have ended on the platform, by the ids of their rows."""
        with self._database.write() as (connection, now):
            for part in chunks(sorted(rows)):
                processing = task.c.id.in_(part), task.c.state == TaskState.PROCESSING
                _lock(connection, *processing)
                connection.execute(sa.update(task).where(*processing).values(state=TaskState.READY, ready_at=now))

    def collected(
        self, target: Target, row: TaskRow, written: Sequence[Written], *, run_id: str | None = None
    ) -> list[OutboxRow]:
        """Record that the segments of a task are in the dataset; see `collected_together`."""
        return self.collected_together(target, [(row, written)], run_id=run_id)

    def collected_together(
        self, target: Target, results: Sequence[tuple[TaskRow, Sequence[Written]]], *, run_id: str | None = None
    ) -> list[OutboxRow]:
        """Record that the segments of some tasks are in the dataset, in one transaction.

        Args:
            target: The pipeline.
            results: The tasks, and what was written of each, for each media file that has its segments now.
            run_id: The run that reports the changes.

        Returns:
            The changes that the run is to report.
        """
        files = sorted(((row, file) for row, written in results for file in written), key=lambda pair: pair[1].key)
        with self._database.write() as (connection, now):
            latest = _record_ends(connection, now, results)
            lock_files(connection, target.pipeline, [file.key for _, file in files])
            present = set[str]()
            for part in chunks([file.key for _, file in files]):
                found = sa.select(media.c.key).where(media.c.pipeline == target.pipeline, media.c.key.in_(part))
                present.update(connection.execute(found).scalars())
            wanted = [(row, file) for row, file in files if file.key in present]  # what is gone, nobody wants any more
            if wanted:
                # A file that changed meanwhile, or got another task, still waits for that one.
                serves = sa.and_(
                    sa.bindparam("is_serving", type_=sa.Boolean),
                    media.c.fingerprint == sa.bindparam("new_embedded_fingerprint"),
                    wanted_digest(target) == sa.bindparam("new_embedded_digest"),
                )
                names = list(_embedded_columns(*wanted[0]))
                connection.execute(
                    sa.update(media)
                    .where(media.c.pipeline == target.pipeline, media.c.key == sa.bindparam("of_key"))
                    .values({name: sa.bindparam(f"new_{name}") for name in names})
                    .values(task_id=sa.case((serves, sa.bindparam("new_embedded_task_id")), else_=media.c.task_id))
                    .values(written_at=now, updated_at=now, run_id=None, lease_until=None, **UNDEFERRED),
                    [
                        {
                            "of_key": file.key,
                            "is_serving": row.id in latest and row.content.platform == target.platform,
                            **{f"new_{name}": value for name, value in _embedded_columns(row, file).items()},
                        }
                        for row, file in wanted
                    ],
                )
            changes: list[outbox.Change] = [
                ("segments", file.key, _segments_payload(row, file)) for row, file in wanted
            ]
            return outbox.append(connection, now, target.pipeline, changes, run_id=run_id)

    def adopt_results(self, target: Target, results: Iterable[tuple[TaskRow, str, Written]]) -> int:
        """Record segments that the dataset holds and the ledger does not know: tasks that were paid for before.

        Args:
            target: The pipeline.
            results: The task as the segments tell of it, the media file's address, and what is written.

        Returns:
            How many were new to the ledger.
        """
        count = 0
        remaining = iter(results)
        # Reading results takes time, in which nobody else could write.
        while part := list(itertools.islice(remaining, CHUNK)):
            count += self._adopt(target, part)
        return count

    def _adopt(self, target: Target, results: Sequence[tuple[TaskRow, str, Written]]) -> int:
        tasks: dict[Content, dict[str, Any]] = {}
        files: dict[str, dict[str, Any]] = {}
        with self._database.write() as (connection, now):
            for row, uri, file in sorted(results, key=lambda one: one[2].key):
                imported = {"origin": "imported", "created_at": row.created_at, "ended_at": row.created_at}
                tasks[row.content] = {
                    **_values(row),
                    "state": TaskState.COLLECTED,
                    "is_latest": True,
                    "task_id": row.task_id,
                    **imported,
                }
                files[file.key] = {
                    "pipeline": target.pipeline,
                    "key": file.key,
                    "uri": uri,
                    "media_type": row.media_type,
                    "fingerprint": row.content.fingerprint,
                    "duration_sec": file.duration_sec,
                    "changed_at": now,
                    "task_id": row.task_id,
                    "embedded_fingerprint": row.content.fingerprint,
                    "embedded_digest": row.content.settings_digest,
                    "embedded_platform": row.content.platform,
                    "embedded_task_id": row.task_id,
                    "segments": file.segments,
                    "space": file.space,
                    "size_bytes": file.size_bytes,
                    "written_at": row.created_at,
                    "updated_at": now,
                }
            identity = task.c.fingerprint, task.c.settings_digest, task.c.platform
            inserted = connection.execute(insert_new(connection, task).returning(*identity), list(tasks.values()))
            new_tasks = {Content(*row) for row in inserted}
            inserted = connection.execute(insert_new(connection, media).returning(media.c.key), list(files.values()))
            new_files = {key for (key,) in inserted}
            _set_imported(connection, [file for key, file in files.items() if key not in new_files])
        return sum(row.content in new_tasks or file.key in new_files for row, _, file in results)


def _grant(
    connection: sa.Connection,
    target: Target,
    granted: Mapping[Content, tuple[Claim, TaskRow | None]],
    granted_at: Mapping[str, Any],
    *,
    by_hand: bool,
) -> dict[Content, Claimed | ClaimOutcome]:
    """Insert claims, or take over those that go on; one that another transaction was first with is not given."""
    found: list[Any] = []
    first: list[dict[str, Any]] = []
    # In one order, so that two transactions never wait for each other.
    for _, (claim, before) in sorted(granted.items()):
        values = {**_claim_values(target, claim), **granted_at}
        if before is None:
            first.append(values)
        elif before.state is TaskState.CLAIMED:
            # Its run died before anything was sent, so the same attempt goes on under a new owner.
            values |= {"sent_at": None, "in_doubt_until": None, "fence": before.fence + 1}
            values |= {"attempt": before.attempt, "tries": before.tries}
            if before.source_filename is not None:
                # What it may have uploaded bears the earlier name, which tells content and settings as well.
                is_upload = claim.source_filename is not None
                values |= {"source_filename": before.source_filename} if is_upload else {"asset_id": None}
            taken = sa.update(task).where(*_own(before)).values(values)
            found += connection.execute(taken.returning(*TASK_COLUMNS))
        else:
            connection.execute(sa.update(task).where(task.c.id == before.id).values(is_latest=False))
            tries = 1 if by_hand or before.state is TaskState.REFUSED else before.tries + 1
            values |= {"attempt": _next_attempt(claim.content), "tries": tries}
            found += connection.execute(insert_new(connection, task).values(values).returning(*TASK_COLUMNS))
    if first:
        found += connection.execute(insert_new(connection, task).returning(*TASK_COLUMNS), first)
    claimed = {row.content: row for row in map(task_of, found) if row is not None}
    return {
        content: Claimed(claimed[content]) if content in claimed else ClaimOutcome(Step.WAIT, before)
        for content, (_, before) in granted.items()
    }


def _claim_values(target: Target, claim: Claim) -> dict[str, Any]:
    """Return the columns of a first claim on a content, but for whose it is and since when."""
    return {
        "fingerprint": claim.content.fingerprint,
        "settings_digest": claim.content.settings_digest,
        "platform": claim.content.platform,
        "attempt": 1,
        "tries": 1,
        "is_latest": True,
        "state": TaskState.CLAIMED,
        "pipeline": target.pipeline,
        "key": claim.key,
        "fence": 1,
        "source_url": claim.source_url,
        "source_filename": claim.source_filename,
        "media_type": claim.media_type,
        "settings": to_json(claim.settings),
        "config_digest": target.config_digest,
        "minutes": claim.minutes,
    }


def _latest(
    connection: sa.Connection, now: float, target: Target, contents: Collection[Content], *, lock: bool = False
) -> dict[Content, tuple[TaskRow, Step]]:
    wanted = set(contents)
    found: dict[Content, tuple[TaskRow, Step]] = {}
    for part in chunks(sorted({content.fingerprint for content in wanted})):
        query = (
            sa.select(*TASK_COLUMNS, task_step(target, now).label("step"))
            .where(
                task.c.is_latest,
                task.c.fingerprint.in_(part),
                task.c.settings_digest.in_({content.settings_digest for content in wanted}),
                task.c.platform.in_({content.platform for content in wanted}),
            )
            .order_by(task.c.id)
        )
        for row in connection.execute(query.with_for_update() if lock else query):
            if (latest := task_of(row)) is not None and latest.content in wanted:
                found[latest.content] = (latest, Step(row.step))
    return found


def _open_claims(
    connection: sa.Connection, now: float, claims: Collection[Claim]
) -> dict[tuple[str, str | None], TaskRow]:
    """Return the claims under which a task may be created from the source of one of these, by key and source.

    The platform's list shows the source, and not the content that it held: of two requests for one source that are
    both without an answer, nobody could tell which task is whose.
    """
    sources = {(claim.key, claim.source_url) for claim in claims if claim.source_url is not None}
    found: dict[tuple[str, str | None], TaskRow] = {}
    for part in chunks(sorted({key for key, _ in sources})):
        query = sa.select(*TASK_COLUMNS).where(
            task.c.state == TaskState.CLAIMED,
            task.c.key.in_(part),
            sa.or_(task.c.lease_until > now, task.c.in_doubt_until > now),
        )
        for row in map(task_of, connection.execute(query.order_by(task.c.id))):
            if row is not None and (row.key, row.source_url) in sources:
                found[row.key, row.source_url] = row
    return found


class _Budget:
    """Media minutes that are left, counted within the claiming transaction."""

    def __init__(
        self, connection: sa.Connection, now: float, target: Target, run_id: str, limits: Limits | None
    ) -> None:
        self._left: dict[str, float] = {}
        self._pipeline, self._run_id, self._day_start = target.pipeline, run_id, now - DAY_SEC
        if limits is None or (limits.per_run is None and limits.per_day is None):
            return
        # Runs of one pipeline count one after the other, or two could both spend the last minute.
        connection.execute(sa.select(pipeline.c.name).where(pipeline.c.name == target.pipeline).with_for_update())
        if limits.per_run is not None:
            self._left[_PER_RUN] = limits.per_run - spent(connection, target, task.c.run_id == run_id)
        if limits.per_day is not None:
            self._left[_PER_DAY] = limits.per_day - spent(connection, target, task.c.claimed_at > self._day_start)

    def reached(self, claim: Claim, before: TaskRow | None) -> str | None:
        """Return which limit stands in the way of a claim, in words; None for none."""
        for name, left in self._left.items():
            if self._minutes(name, claim, before) > left:
                # The same words for every file that it keeps waiting, so that they can be counted as one.
                return f"{name} is reached: {max(left, 0.0):.1f} min are left, too few for it"
        return None

    def spend(self, claim: Claim, before: TaskRow | None) -> None:
        """Take the minutes of a claim off what is left."""
        for name in self._left:
            self._left[name] -= self._minutes(name, claim, before)

    def _minutes(self, name: str, claim: Claim, before: TaskRow | None) -> float:
        """Return the minutes that a claim adds: a lapsed one that goes on has been counted."""
        minutes = claim.minutes or 0.0
        if before is None or before.state is not TaskState.CLAIMED or before.pipeline != self._pipeline:
            return minutes
        counted = before.run_id == self._run_id if name == _PER_RUN else before.claimed_at > self._day_start
        return minutes - (before.minutes or 0.0) if counted else minutes


def spent(connection: sa.Connection, target: Target, *conditions: sa.ColumnElement[bool]) -> float:
    """Return the media minutes that a pipeline has claimed and not released, under some conditions."""
    total = sa.func.coalesce(sa.func.sum(task.c.minutes), 0.0)
    counted = sa.and_(
        task.c.pipeline == target.pipeline,
        task.c.state != TaskState.REFUSED,
        sa.or_(task.c.origin.is_(None), task.c.origin != "imported"),
        *conditions,
    )
    return float(connection.execute(sa.select(total).where(counted)).scalar_one())


def _may_follow(before: TaskRow, step: Step, ask: Ask, run_id: str) -> bool:
    """Decide whether a person's wish makes a new attempt out of a content that is not due by itself."""
    if ask == "due" or before.state is TaskState.CLAIMED:
        return False
    if before.state in ENDED:
        # Also what backs off; what this run itself was refused or failed is not asked for twice.
        return step in {Step.GIVE_UP, Step.BACK_OFF} and before.run_id != run_id
    # A run that was killed and re-executed finds what it created before.
    return ask == "force" and before.run_id != run_id


def _created(at: float, lifetime_sec: float, origin: Origin) -> dict[str, Any]:
    """Return the columns of an answer, but for the task's id."""
    return {
        "state": TaskState.PROCESSING,
        "origin": origin,
        "created_at": at,
        "expires_at": at + lifetime_sec,
        "in_doubt_until": None,
        "ended_at": None,
        "retry_at": None,
        "error": None,
    }


def _record_answer(connection: sa.Connection, claimed: TaskRow, values: Mapping[str, Any]) -> Duplicate | None:
    """Record a created task: the first answer counts, whoever has the claim by now; none is forgotten.

    Args:
        connection: The transaction.
        claimed: The claim that it was created under.
        values: The columns of the answer.

    Returns:
        The task as a duplicate where another one serves the content.
    """
    task_id = values["task_id"]
    noted = connection.execute(
        sa.select(*TASK_COLUMNS).where(task.c.task_id == task_id, task.c.platform == claimed.content.platform)
    ).one_or_none()
    if noted is not None:
        if (row := task_of(noted)) is not None and row.content != claimed.content:
            raise LedgerError(
                f"Task {task_id} serves the content of {row.key} already, and cannot serve {claimed.key}."
            )
        return None
    answered = sa.update(task).values(values)
    open_claim = task.c.id == claimed.id, task.c.state == TaskState.CLAIMED
    if connection.execute(answered.where(*open_claim)).rowcount == 1:
        return None
    while True:
        latest = connection.execute(
            sa.select(*TASK_COLUMNS).where(_is(claimed.content), task.c.is_latest).with_for_update()
        ).one_or_none()
        before = task_of(latest) if latest is not None else None
        if before is not None and before.state in SERVING:
            return Duplicate(task_id, before.task_id)
        if before is not None and before.state in {TaskState.CLAIMED, TaskState.REFUSED}:
            connection.execute(answered.where(task.c.id == before.id))
            return None
        attempt = 1 if before is None else _next_attempt(claimed.content)
        if before is not None:
            connection.execute(sa.update(task).where(task.c.id == before.id).values(is_latest=False))
        new = {**_values(claimed), **values, "attempt": attempt, "is_latest": True}
        # The row itself tells: PostgreSQL's driver does not count rows where it returns their ids.
        if connection.execute(insert_new(connection, task).values(new).returning(task.c.id)).one_or_none() is not None:
            return None


def _record_ends(
    connection: sa.Connection, now: float, results: Sequence[tuple[TaskRow, Sequence[Written]]]
) -> set[int]:
    """Record that tasks are collected; return those that are the latest of their contents."""
    ended = sa.update(task).where(task.c.id == sa.bindparam("of_id"))
    ended = ended.values(state=TaskState.COLLECTED, ended_at=now, error=None)
    ended = ended.values(ready_at=sa.func.coalesce(sa.bindparam("new_ready_at", type_=sa.Double), task.c.ready_at))
    connection.execute(
        ended,
        [
            {
                "of_id": row.id,
                "new_ready_at": next((file.ready_at for file in written if file.ready_at is not None), None),
            }
            for row, written in sorted(results, key=lambda result: result[0].id)
        ],
    )
    query = sa.select(task.c.id).where(task.c.id.in_([row.id for row, _ in results]), task.c.is_latest)
    return set(connection.execute(query).scalars())


def _embedded_columns(row: TaskRow, file: Written) -> dict[str, Any]:
    """Return the columns that tell of the segments that the dataset has."""
    return {
        "embedded_fingerprint": row.content.fingerprint,
        "embedded_digest": row.content.settings_digest,
        "embedded_platform": row.content.platform,
        "embedded_task_id": row.task_id,
        "segments": file.segments,
        "space": file.space,
        "size_bytes": file.size_bytes,
        "problems": to_json(file.problems) if file.problems else None,
    }


def _segments_payload(row: TaskRow, file: Written) -> dict[str, Any]:
    """Return what a report of a media file's segments shows."""
    return {
        "task_id": row.task_id,
        "attempt": row.attempt,
        "settings_digest": row.content.settings_digest,
        "submitted_at": row.created_at,
        "segments": file.segments,
        "space": file.space,
        "size_bytes": file.size_bytes,
        "duration_sec": file.duration_sec,
        "ready_at": file.ready_at,
        "problems": dict(file.problems),
        **file.details,
    }


def _set_imported(connection: sa.Connection, files: Sequence[Mapping[str, Any]]) -> None:
    """Record imported segments of media files that are known already, where they have none."""
    if not files:
        return
    imported = [name for name in files[0] if name.startswith("embedded_")]
    imported += ["segments", "space", "size_bytes", "written_at", "updated_at"]
    unserved = sa.and_(media.c.task_id.is_(None), media.c.fingerprint == sa.bindparam("new_fingerprint"))
    connection.execute(
        sa.update(media)
        .where(
            media.c.pipeline == sa.bindparam("new_pipeline"),
            media.c.key == sa.bindparam("new_key"),
            media.c.embedded_task_id.is_(None),
        )
        .values(
            task_id=sa.case((unserved, sa.bindparam("new_task_id")), else_=media.c.task_id),
            **{name: sa.bindparam(f"new_{name}") for name in imported},
        ),
        [{f"new_{name}": value for name, value in file.items()} for file in files],
    )


def _lock(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> None:
    """Lock tasks in one order, so that two transactions never wait for each other."""
    if connection.dialect.name != "sqlite":
        connection.execute(sa.select(task.c.id).where(*conditions).order_by(task.c.id).with_for_update())


def _own(claimed: TaskRow) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        task.c.id == claimed.id,
        task.c.owner == claimed.owner,
        task.c.fence == claimed.fence,
        task.c.state == TaskState.CLAIMED,
    )


def _is(content: Content) -> sa.ColumnElement[bool]:
    return sa.and_(
        task.c.fingerprint == content.fingerprint,
        task.c.settings_digest == content.settings_digest,
        task.c.platform == content.platform,
    )


def _next_attempt(content: Content) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.max(task.c.attempt) + 1).where(_is(content)).scalar_subquery()


def _values(row: TaskRow) -> dict[str, Any]:
    """Return the columns that make up a task's identity and request."""
    return {
        "fingerprint": row.content.fingerprint,
        "settings_digest": row.content.settings_digest,
        "platform": row.content.platform,
        "attempt": row.attempt,
        "tries": row.tries,
        "pipeline": row.pipeline,
        "key": row.key,
        "run_id": row.run_id,
        "owner": row.owner,
        "fence": row.fence,
        "claimed_at": row.claimed_at,
        "lease_until": row.claimed_at,
        "source_url": row.source_url,
        "source_filename": row.source_filename,
        "asset_id": row.asset_id,
        "media_type": row.media_type,
        "settings": to_json(row.settings),
        "config_digest": row.config_digest,
        "minutes": row.minutes,
    }
