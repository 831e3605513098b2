"""Which submitting runs discovery asks for: what is due, fits the day and is not under way yet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg

from embed_pipeline.errors import MediaError
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.day_budget import fitting, read_day_budget
from embed_pipeline.orchestration.due import read_due
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.measuring import probe_all
from embed_pipeline.orchestration.outdated import Watermark, excused_from_settings, find_outdated
from embed_pipeline.orchestration.ranges import EndedRun, contiguous_ranges, held_back, in_vain
from embed_pipeline.orchestration.runs import RUNS_COUNT_FOR, runs_of_asset, runs_under_way
from embed_pipeline.orchestration.versions import content_of

if TYPE_CHECKING:
    from embed_pipeline.media import MediaLibrary

_PROBES_PER_BATCH = 50


@dataclass(frozen=True)
class SubmissionRequests:
    """The runs that are asked for, and what is told of them.

    Args:
        ranges: The run tags of each run.
        due: Media files that should have another task.
        under_way: Those of them that runs under way are at work on.
        later: Media files that are due but wait for a later tick.
        notes: What a person should know, in words.
        watermark: How far the events are of the present settings; None where that was not looked at.
    """

    ranges: Sequence[Mapping[str, str]] = ()
    due: int = 0
    under_way: int = 0
    later: int = 0
    notes: Sequence[str] = ()
    watermark: Watermark | None = None


@dataclass(frozen=True)
class SubmissionPlanner:
    """Decides which submitting runs to ask for.

    Args:
        blueprint: The pipeline.
        instance: The Dagster instance.
        library: Where the media files are; opened only where a limit of minutes makes their length matter.
        now: The time of the decision.
        budget_sec: Seconds that the decision may take.
    """

    blueprint: Blueprint
    instance: dg.DagsterInstance
    library: MediaLibrary
    now: datetime
    budget_sec: float

    def request(
        self,
        order: Sequence[str],
        *,
        observed: Mapping[str, str] | None = None,
        cursor: str | None = None,
        most_runs: int | None = None,
    ) -> SubmissionRequests:
        """Choose the runs.

        Args:
            order: Every partition key, in key order.
            observed: Versions that the same tick is about to tell.
            cursor: The sensor's cursor.
            most_runs: Runs to ask for, at the most; None for all.
        """
        deadline = time.monotonic() + self.budget_sec
        names, policy = self.blueprint.names, self.blueprint.policy
        # Runs first: one that ends before the ledger is read has left its events there, and its files count as done.
        since = self.now - RUNS_COUNT_FOR
        choosing = next(
            (job for job in names.choosing_jobs if runs_under_way(self.instance, since=since, job_name=job)), None
        )
        runs = runs_of_asset(self.instance, names.embedding_tasks, [names.submit_job], order, since=since)
        ledger = Ledger(self.instance, names)
        versions = {**ledger.media_versions(), **(observed or {})}
        outdated, watermark = self._outdated(ledger, order, versions, cursor)
        due = read_due(
            ledger, order, policy, self.now, terms=self.blueprint.terms, observed=observed, outdated=set(outdated)
        )
        in_flight = len(runs.in_flight.intersection(due))
        if due and choosing is not None:
            # Which files it takes is known to itself alone: another run would read and upload some of the same.
            notes = [f"{choosing} is under way and goes first"]
            return SubmissionRequests((), len(due), in_flight, len(due) - in_flight, notes, watermark)
        waiting = self._held_back(ledger, [*runs.failed, *in_vain(runs.others, due)], observed or {})
        wanted = [key for key in due if key not in runs.in_flight and key not in waiting]
        notes = [f"{len(outdated)} of other settings"] if outdated else []
        if wanted and (policy.max_minutes_per_day is not None or policy.max_minutes_per_run is not None):
            if runs.in_flight and policy.max_minutes_per_day is not None:
                # What they will spend is not known before they end, and two guesses would overrun the limit.
                note = "the minutes of runs under way are counted first"
                return SubmissionRequests((), len(due), in_flight, len(due) - in_flight, [*notes, note], watermark)
            wanted, held = self._within_limits(ledger, wanted, versions, deadline)
            notes += held
        ranges = contiguous_ranges(wanted, order, policy.partitions_per_run)[:most_runs]
        asked = sum(len(some.keys) for some in ranges)
        return SubmissionRequests(
            [some.tags for some in ranges], len(due), in_flight, len(due) - asked - in_flight, notes, watermark
        )

    def _held_back(
        self, ledger: Ledger, ended: Sequence[EndedRun], observed: Mapping[str, str]
    ) -> Mapping[str, datetime]:
        """The keys for which a run ended in vain a short while ago, and that nothing was told of since."""
        first_sec = self.blueprint.policy.retry_backoff_sec
        waiting = held_back(ended, first_sec, self.now)
        since = {key: seen[-1].at for key, seen in ledger.sightings(waiting).items()}
        for key, logged in ledger.logged_outcomes(waiting).items():
            since[key] = max(logged.at, since.get(key, logged.at))
        return held_back(ended, first_sec, self.now, since={**since, **dict.fromkeys(observed, self.now)})

    def _outdated(
        self, ledger: Ledger, order: Sequence[str], versions: Mapping[str, str], cursor: str | None
    ) -> tuple[Sequence[str], Watermark]:
        watermark = Watermark.parse(cursor, self.blueprint.task_code_version)
        excused = excused_from_settings(ledger, order, versions, self.blueprint.terms)
        return find_outdated(self.instance, self.blueprint.names, watermark, ledger.task_event_ids(), excused)

    def _within_limits(
        self, ledger: Ledger, wanted: Sequence[str], versions: Mapping[str, str], deadline: float
    ) -> tuple[list[str], list[str]]:
        """The keys that may be submitted now, and in words why others may not."""
        policy = self.blueprint.policy
        budget = read_day_budget(ledger, policy, self.now)
        served, tasks = self._contents_with_a_task(ledger, versions), ledger.task_versions()
        minutes: dict[str, float | None] = {}
        chosen = fitting((), {}, budget, policy.max_minutes_per_run)
        if budget.left is None or budget.left > 0:
            for some in _batches(wanted, _PROBES_PER_BATCH):
                minutes.update(dict.fromkeys(key for key in some if key not in tasks and versions.get(key) in served))
                minutes.update(self._lengths([key for key in some if key not in minutes]))
                chosen = fitting(wanted, minutes, budget, policy.max_minutes_per_run)
                spent = sum(minutes[key] or 0.0 for key in chosen.keys)
                if time.monotonic() > deadline or (budget.left is not None and spent >= budget.left):
                    break
        notes = []
        if policy.max_minutes_per_day is not None:
            notes.append(str(budget))
        if chosen.too_long:
            notes.append(
                f"{len(chosen.too_long)} longer than max_minutes_per_run or max_minutes_per_day allows at all, "
                f"such as {chosen.too_long[0]}"
            )
        return list(chosen.keys), notes

    def _contents_with_a_task(self, ledger: Ledger, versions: Mapping[str, str]) -> set[str]:
        """Contents that a task was made for under some name: under another they cost nothing."""
        media_ids, task_ids = ledger.media_event_ids(), ledger.task_event_ids()
        up_to_date = [key for key, at in task_ids.items() if key in versions and media_ids.get(key, 0) < at]
        return {content_of(versions[key]) for key in up_to_date}

    def _lengths(self, keys: Iterable[str]) -> dict[str, float | None]:
        """Lengths in minutes; None for a file that cannot be played, which the submitting run refuses in words."""
        files, lengths = [], dict[str, float | None]()
        for key in keys:
            try:
                files.append(self.library.file(key))
            except MediaError:
                lengths[key] = None
        for file, found in probe_all(self.library, files, self.blueprint.client.concurrency):
            lengths[file.key] = (
                None if isinstance(found, MediaError) else self.blueprint.settings.embedded_minutes(found.duration_sec)
            )
        return lengths


def _batches(keys: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
