"""Values that the ledger's tests are made of."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from embed_pipeline.ledger import Claim, Claimed, Content, Ledger, MediaFacts, MediaRow, Target, TaskRow, Written
from embed_pipeline.ledger.rows import TASK_COLUMNS, task_of
from embed_pipeline.ledger.tables import task

LEASE_SEC = 100.0
DOUBT_SEC = 150.0
DAY_SEC = 86400.0

TARGET = Target("", "audio-1", "video-1", "api.example.com", "config-1")
SETTINGS = {"model_name": "marengo3.0", "video": {"options": ["visual"]}}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


def content(fingerprint: str = "f1", digest: str = "video-1", platform: str = TARGET.platform) -> Content:
    return Content(fingerprint, digest, platform)


def facts(key: str = "a.mp4", fingerprint: str = "f1", **more: Any) -> MediaFacts:
    return MediaFacts(key, f"file:///library/{key}", more.pop("media_type", "video"), fingerprint, **more)


def wish(key: str = "a.mp4", fingerprint: str = "f1", **more: Any) -> Claim:
    more = {"minutes": 1.0, "source_url": f"https://media.example.com/{fingerprint}/{key}"} | more
    return Claim(more.pop("content", content(fingerprint)), key, more.pop("media_type", "video"), SETTINGS, **more)


def segments(key: str = "a.mp4", **more: Any) -> Written:
    return Written(key, **({"segments": 10, "space": "marengo3.0-512", "size_bytes": 1000} | more))


def claim(ledger: Ledger, key: str = "a.mp4", fingerprint: str = "f1", *, owner: str = "p1", **more: Any) -> TaskRow:
    """Claim one content, which must succeed."""
    outcome = try_claim(ledger, key, fingerprint, owner=owner, **more)
    assert isinstance(outcome, Claimed), outcome
    return outcome.task


def try_claim(ledger: Ledger, key: str = "a.mp4", fingerprint: str = "f1", *, owner: str = "p1", **more: Any) -> Any:
    target = more.pop("target", TARGET)
    options = {name: more.pop(name) for name in ("ask", "limits", "run_id", "lease_sec") if name in more}
    one = wish(key, fingerprint, **more)
    options = {"run_id": f"run-{owner}", "lease_sec": LEASE_SEC} | options
    return ledger.tasks.claim(target, [one], owner=owner, **options)[one.content]


def submit(ledger: Ledger, key: str = "a.mp4", fingerprint: str = "f1", *, task_id: str = "t1", **more: Any) -> TaskRow:
    """Claim one content and record its task, as a run does that meets with no trouble."""
    claimed = claim(ledger, key, fingerprint, **more)
    assert ledger.tasks.mark_sent(claimed, lease_sec=LEASE_SEC, doubt_sec=DOUBT_SEC)
    target = more.get("target", TARGET)
    _, duplicate = ledger.tasks.created(target, claimed, task_id=task_id, lifetime_sec=7 * DAY_SEC)
    assert duplicate is None
    return task_row(ledger, claimed.id)


def collect(ledger: Ledger, row: TaskRow, *keys: str, **more: Any) -> None:
    ledger.tasks.collected(TARGET, row, [segments(key, **more) for key in keys or (row.key,)])


def media_row(ledger: Ledger, key: str = "a.mp4", target: Target = TARGET) -> MediaRow:
    return ledger.rows(target, [key])[key]


def task_row(ledger: Ledger, row_id: int) -> TaskRow:
    return next(row for row in task_rows(ledger) if row.id == row_id)


def task_rows(ledger: Ledger, fingerprint: str | None = None) -> list[TaskRow]:
    """Return all attempts, or those on one content, in order."""
    query = sa.select(*TASK_COLUMNS).order_by(task.c.fingerprint, task.c.settings_digest, task.c.attempt)
    if fingerprint is not None:
        query = query.where(task.c.fingerprint == fingerprint)
    with ledger.database.read() as (connection, _):
        return [row for row in map(task_of, connection.execute(query)) if row is not None]


def latest_attempts(ledger: Ledger, fingerprint: str = "f1") -> list[int]:
    """Return the numbers of the attempts on a content that are marked as the latest."""
    query = sa.select(task.c.attempt).where(task.c.fingerprint == fingerprint, task.c.is_latest)
    with ledger.database.read() as (connection, _):
        return [attempt for (attempt,) in connection.execute(query)]


def unreported(ledger: Ledger, pipeline: str = "") -> list[tuple[str, str]]:
    """Return kind and partition key of what a sensor would report now."""
    return [(row.kind, row.key) for row in ledger.outbox.unreported(pipeline)]
