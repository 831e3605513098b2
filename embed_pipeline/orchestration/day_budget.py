"""The media minutes that max_minutes_per_day still allows, and which files fit into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.submission_plan import minutes_spent

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DayBudget:
    """What may still be submitted today.

    Args:
        limit: Media minutes within 24 hours, at the most; None for no limit.
        spent: Media minutes of the tasks created within the last 24 hours.
        frees_at: When the oldest of them no longer counts; None where nothing was spent.
    """

    limit: float | None
    spent: float = 0.0
    frees_at: datetime | None = None

    @property
    def left(self) -> float | None:
        """Media minutes that may still be submitted; None for no limit."""
        return None if self.limit is None else max(self.limit - self.spent, 0.0)

    def __str__(self) -> str:
        if self.limit is None:
            return "no limit of minutes a day"
        more = f"; more from {self.frees_at:%d %b %H:%M} UTC on" if self.frees_at else ""
        return f"{self.spent:.1f} of max_minutes_per_day {self.limit:g} spent in 24 hours{more}"


def read_day_budget(ledger: Ledger, policy: PipelinePolicy, now: datetime) -> DayBudget:
    """Add up what was spent within the last 24 hours; reads no event where there is no limit."""
    if policy.max_minutes_per_day is None:
        return DayBudget(None)
    records = list(ledger.records_created_since(now - DAY))
    oldest = min((record.submitted_at for record in records), default=None)
    return DayBudget(policy.max_minutes_per_day, minutes_spent(records), None if oldest is None else oldest + DAY)


@dataclass(frozen=True, slots=True)
class Fitting:
    """Which files a budget has room for.

    Args:
        keys: Those that fit, in their order.
        too_long: Those that fit into no run or no day, however long one waits.
    """

    keys: tuple[str, ...]
    too_long: tuple[str, ...] = ()


def fitting(
    keys: Sequence[str], minutes: Mapping[str, float | None], budget: DayBudget, per_run: float | None
) -> Fitting:
    """Choose the files that a budget has room for, in their order.

    Args:
        keys: The files that are due.
        minutes: Their lengths in minutes, as far as they were measured; None for one whose length cannot be known.
        budget: What may still be submitted today.
        per_run: Media minutes that one run submits, at the most; None for no limit.
    """
    most = min((limit for limit in (per_run, budget.limit) if limit is not None), default=None)
    left = budget.left
    chosen, too_long = [], []
    for key in keys:
        if key not in minutes:
            continue
        length = minutes[key] or 0.0
        if most is not None and length > most:
            too_long.append(key)
        elif left is None or length <= left:
            chosen.append(key)
            left = None if left is None else left - length
    return Fitting(tuple(chosen), tuple(too_long))
