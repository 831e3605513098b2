"""Ledger: the relational store of media files and embedding tasks, on SQLite or PostgreSQL."""

from __future__ import annotations

from embed_pipeline.ledger.database import Database, LedgerError
from embed_pipeline.ledger.ledger import Ledger
from embed_pipeline.ledger.outbox import OutboxRow
from embed_pipeline.ledger.states import MediaState, Step, TaskState
from embed_pipeline.ledger.values import (
    Claim,
    Claimed,
    ClaimOutcome,
    Content,
    Duplicate,
    Limits,
    MediaFacts,
    MediaRow,
    Target,
    TaskRow,
    Written,
)

__all__ = [
    "Claim",
    "ClaimOutcome",
    "Claimed",
    "Content",
    "Database",
    "Duplicate",
    "Ledger",
    "LedgerError",
    "Limits",
    "MediaFacts",
    "MediaRow",
    "MediaState",
    "OutboxRow",
    "Step",
    "Target",
    "TaskRow",
    "TaskState",
    "Written",
]
