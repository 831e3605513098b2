"""Partition keys as the ranges that runs carry: contiguous in key order, of bounded length."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from embed_pipeline.orchestration.submission_plan import backoff

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Contiguous partition keys in key order."""

    keys: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        """The run tags that make a run target exactly these keys."""
        return {RANGE_START_TAG: self.keys[0], RANGE_END_TAG: self.keys[-1]}


def contiguous_ranges(wanted: Collection[str], order: Sequence[str], longest: int) -> list[KeyRange]:
    """The fewest ranges, each of at most ``longest`` keys, that hold exactly the wanted keys.

    Args:
        wanted: The keys to cover; those that are not in ``order`` are left out.
        order: Every key in key order.
        longest: Keys in one range, at the most.
    """
    chosen = set(wanted)
    ranges: list[KeyRange] = []
    current: list[str] = []
    for key in order:
        if key in chosen:
            current.append(key)
        if current and (key not in chosen or len(current) == longest):
            ranges.append(KeyRange(tuple(current)))
            current = []
    if current:
        ranges.append(KeyRange(tuple(current)))
    return ranges


def keys_of_run(tags: Mapping[str, str], position: Mapping[str, int], order: Sequence[str]) -> Sequence[str]:
    """The partition keys that a run targets, read from its tags; empty where it targets none that exist."""
    if (key := tags.get(PARTITION_TAG)) is not None:
        return [key]
    start, end = tags.get(RANGE_START_TAG), tags.get(RANGE_END_TAG)
    if start is None or end is None or start not in position or end not in position:
        return []
    return order[position[start] : position[end] + 1]


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that ended, with the keys it was asked for."""

    keys: tuple[str, ...]
    at: datetime


def in_vain(ended: Iterable[EndedRun], due: Collection[str]) -> list[EndedRun]:
    """The runs that brought nothing forward: every key they were asked for is due still, or again.

    Args:
        ended: Runs that ended, in whatever way.
        due: The keys that are due now.
    """
    still = set(due)
    return [run for run in ended if still.issuperset(run.keys)]


def held_back(
    failed: Iterable[EndedRun], first_sec: float, now: datetime, *, since: Mapping[str, datetime] | None = None
) -> dict[str, datetime]:
    """The keys that wait because runs for them came to nothing, with the time from which they may be asked for again.

    Args:
        failed: Runs that failed, or did nothing for their keys.
        first_sec: The wait after the first failure, in seconds; it doubles with each further one.
        now: The time of the decision.
        since: When there was first anything to do for a key; what ended before does not count against it.
    """
    count: dict[str, int] = {}
    last: dict[str, datetime] = {}
    for run in failed:
        for key in run.keys:
            if since is not None and key in since and run.at < since[key]:
                continue
            count[key] = count.get(key, 0) + 1
            last[key] = max(last.get(key, run.at), run.at)
    until = {key: last[key] + backoff(count[key], first_sec, longest_sec=3600.0) for key in count}
    return {key: at for key, at in until.items() if at > now}
