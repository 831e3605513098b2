"""The plan: what a submission of the whole library would create, told before anything is spent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import dagster as dg

from embed_pipeline.errors import DatasetError, MediaError
from embed_pipeline.orchestration.dataset_witness import DatasetWitness, with_witnessed
from embed_pipeline.orchestration.day_budget import read_day_budget
from embed_pipeline.orchestration.knowledge import gather_knowledge
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.measuring import candidates_for, measured, probe_all
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.resources import EmbedClientResource
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.submission_plan import (
    Action,
    Candidate,
    Decision,
    Known,
    over_a_limit,
    plan_submissions,
)

if TYPE_CHECKING:
    from embed_pipeline.dataset import EmbeddingDataset
    from embed_pipeline.media import MediaFile, MediaLibrary

_SHOWN_IN_UI = 500


class Prospect(Enum):
    """What a submission would do with a media file."""

    NEW = "new"
    CHANGED = "changed"
    OTHER_SETTINGS = "other settings"
    OTHER_PLATFORM = "other platform"
    RETRY = "retry"
    SAME_CONTENT = "same content"
    UNCHANGED = "unchanged"
    WAITING = "waiting"
    FAILED = "failed"
    TOO_SHORT = "too short"
    TOO_LONG = "too long"
    OVER_A_LIMIT = "over a limit"
    UNREADABLE = "unreadable"


CREATING = (Prospect.NEW, Prospect.CHANGED, Prospect.OTHER_SETTINGS, Prospect.OTHER_PLATFORM, Prospect.RETRY)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One media file in a plan.

    Args:
        media: Its partition key.
        prospect: What would be done with it.
        minutes: Its length in minutes; None where nothing would be created, so that it was not opened.
        reason: Why, for people.
    """

    media: str
    prospect: Prospect
    minutes: float | None
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        return {**asdict(self), "prospect": self.prospect.value}


@dataclass(frozen=True, slots=True)
class SpendingLimit:
    """So much within each window of time.

    Args:
        name: The setting that says so.
        of: What is counted: tasks or media minutes.
        amount: How many in one window.
        window_sec: The length of the window in seconds.
    """

    name: str
    of: str
    amount: float
    window_sec: float

    def least_sec(self, tasks: int, minutes: float) -> float:
        """The least time in seconds that so much takes: the first window's share is there at once."""
        wanted = tasks if self.of == "tasks" else minutes
        return max(math.ceil(wanted / self.amount) - 1, 0) * self.window_sec


@dataclass(frozen=True)
class SpendingPlan:
    """What would be created, and what it would take.

    Args:
        files: Every media file of the library, in its order.
        left_out: How many entries of the library are no media files for us, by reason.
        price_per_minute: What a media minute costs; any currency.
        minutes_left_today: Media minutes that max_minutes_per_day still allows; None for no limit.
        limits: The limits that spread the submission over time.
        max_minutes_per_run: Media minutes that one run submits, at the most; None for no limit.
    """

    files: Sequence[PlannedFile]
    left_out: Mapping[str, int] = field(default_factory=dict)
    price_per_minute: float = 0.0
    minutes_left_today: float | None = None
    limits: Sequence[SpendingLimit] = ()
    max_minutes_per_run: float | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many files have each prospect; every prospect is named."""
        found = Counter(file.prospect for file in self.files)
        return {prospect.value: found.get(prospect, 0) for prospect in Prospect}

    @property
    def created(self) -> list[PlannedFile]:
        """The files that a task would be created for."""
        return [file for file in self.files if file.prospect in CREATING]

    @property
    def minutes(self) -> float:
        """Media minutes of the tasks that would be created."""
        return sum(file.minutes or 0.0 for file in self.created)

    def minutes_of(self, prospect: Prospect) -> float:
        """Media minutes of the files with one prospect."""
        return sum(file.minutes or 0.0 for file in self.files if file.prospect is prospect)

    @property
    def cost(self) -> float:
        """What they would cost, in the currency of the price."""
        return self.minutes * self.price_per_minute

    @property
    def slowest_limit(self) -> tuple[SpendingLimit, float] | None:
        """The limit that spreads the submission most, with the least time in seconds; None without any limit."""
        tasks, minutes = len(self.created), self.minutes
        return max(
            ((limit, limit.least_sec(tasks, minutes)) for limit in self.limits), key=lambda pair: pair[1], default=None
        )

    @property
    def least_runs(self) -> int:
        """The runs that it takes at the least: what one leaves over max_minutes_per_run, the next one submits."""
        if self.max_minutes_per_run is None:
            return min(len(self.created), 1)
        return math.ceil(self.minutes / self.max_minutes_per_run)

    @property
    def headline(self) -> str:
        """The plan in one sentence."""
        if not self.files:
            return "The media library holds no media files: no task would be created."
        cost = f", about {self.cost:.2f} at {self.price_per_minute:g} a minute" if self.price_per_minute else ""
        return f"{len(self.created)} tasks would be created for {self.minutes:.1f} media minutes{cost}."

    @property
    def pace(self) -> str:
        """How long the limits spread it, in one sentence."""
        runs = ""
        if self.max_minutes_per_run is not None and self.least_runs > 1:
            runs = f" It takes at least {self.least_runs} runs, at max_minutes_per_run ({self.max_minutes_per_run:g})."
        if self.slowest_limit is None:
            return runs.strip() or "No limits are configured, so the time it takes is the platform's."
        limit, seconds = self.slowest_limit
        if not seconds:
            return runs.strip() or "All of it fits within the configured limits at once."
        return f"Under {limit.name} ({limit.amount:g}) submitting takes at least {in_hours(seconds)}.{runs}"

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON takes it."""
        limit = self.slowest_limit
        return {
            "tasks": len(self.created),
            "minutes": round(self.minutes, 4),
            "cost": round(self.cost, 4),
            "price_per_minute": self.price_per_minute,
            "minutes_left_today": self.minutes_left_today,
            "least_submission_sec": None if limit is None else limit[1],
            "slowest_limit": None if limit is None else limit[0].name,
            "least_runs": self.least_runs,
            "counts": self.counts,
            "left_out": dict(self.left_out),
            "files": [file.as_json() for file in self.files],
        }

    def metadata(self) -> dict[str, Any]:
        """The plan as Dagster's UI shows it."""
        rows = [file for file in self.files if file.prospect is not Prospect.UNCHANGED]
        schema = dg.TableSchema(
            [
                dg.TableColumn("media", "string"),
                dg.TableColumn("prospect", "string"),
                dg.TableColumn("minutes", "float"),
                dg.TableColumn("reason", "string"),
            ]
        )
        records = [
            dg.TableRecord(
                {
                    "media": file.media,
                    "prospect": file.prospect.value,
                    "minutes": None if file.minutes is None else round(file.minutes, 2),
                    "reason": file.reason,
                }
            )
            for file in rows[:_SHOWN_IN_UI]
        ]
        return {
            "embed_pipeline/plan": f"{self.headline} {self.pace}",
            "embed_pipeline/tasks": len(self.created),
            "embed_pipeline/minutes": round(self.minutes, 3),
            "embed_pipeline/cost": round(self.cost, 4),
            **{f"embed_pipeline/files_{name.replace(' ', '_')}": count for name, count in self.counts.items() if count},
            **{f"embed_pipeline/left_out_{reason}": count for reason, count in self.left_out.items()},
            "embed_pipeline/files": dg.MetadataValue.table(records, schema=schema),
        }


def in_hours(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


def prospect_of(decision: Decision, known: Known, own: Collection[TaskRecord], policy: PipelinePolicy) -> Prospect:
    """What a decision means for a media file.

    Args:
        decision: The decision.
        known: What it was decided on.
        own: The tasks that served this partition key so far.
        policy: The team's choices; its bounds of duration tell a short file from a long one, and its limits one that
            no run has room for.
    """
    candidate = decision.candidate
    match decision.action:
        case Action.SUBMIT:
            if over_a_limit(candidate.minutes, policy):
                return Prospect.OVER_A_LIMIT
            same = [record for record in own if record.fingerprint == candidate.fingerprint]
            here = {record.settings_digest for record in same if record.platform == known.platform}
            if candidate.settings_digest in here or decision.attempt > 1:
                return Prospect.RETRY
            if here:
                return Prospect.OTHER_SETTINGS
            if same:
                return Prospect.OTHER_PLATFORM
            return Prospect.CHANGED if own else Prospect.NEW
        case Action.FOLLOW:
            return Prospect.SAME_CONTENT
        case Action.HOLD:
            return Prospect.WAITING
        case Action.REFUSE:
            return Prospect.TOO_SHORT if (candidate.length_sec or 0.0) < policy.min_duration_sec else Prospect.TOO_LONG
        case Action.REATTACH:
            version = decision.task.version if decision.task else ""
            if version in known.outcomes and version not in known.embedded:
                return Prospect.FAILED
            return Prospect.UNCHANGED if any(record.version == version for record in own) else Prospect.SAME_CONTENT


def spending_limits(client: EmbedClientResource, policy: PipelinePolicy) -> list[SpendingLimit]:
    """The configured limits that spread a submission over time: the platform's plan and the team's own."""
    configured = (
        ("requests_per_minute", "tasks", client.requests_per_minute, 60.0),
        ("requests_per_day", "tasks", client.requests_per_day, 86400.0),
        ("media_minutes_per_hour", "minutes", client.media_minutes_per_hour, 3600.0),
        ("media_minutes_per_day", "minutes", client.media_minutes_per_day, 86400.0),
        ("max_minutes_per_day", "minutes", policy.max_minutes_per_day, 86400.0),
    )
    return [SpendingLimit(name, of, amount, window) for name, of, amount, window in configured if amount is not None]


def make_plan(
    *,
    ledger: Ledger,
    library: MediaLibrary,
    settings: EmbeddingSettings,
    policy: PipelinePolicy,
    client: EmbedClientResource,
    dataset: EmbeddingDataset,
    now: datetime,
) -> SpendingPlan:
    """Plan the submission of a whole library; creates nothing and writes nothing.

    Args:
        ledger: What is known so far.
        library: Where the media files are.
        settings: What they would be embedded with.
        policy: The team's choices.
        client: The platform that would be submitted to, with its limits; it is not asked anything.
        dataset: Where segments are written; what it has is not paid for again, whatever the event log says.
        now: The time of planning.

    Raises:
        MediaError: The library cannot be read.
    """
    listing = library.list()
    files = {file.key: file for file in listing.files}
    unreadable: dict[str, str] = {}
    fingerprints = library.fingerprints(
        listing.files, on_problem=lambda file, error: unreadable.update({file.key: str(error)})
    )
    candidates = candidates_for(files, fingerprints, settings)
    known = gather_knowledge(ledger, candidates.values(), platform=client.platform, root_run_id="")
    # The limits tell how long it takes, not what is in the plan.
    unlimited = policy.model_copy(update={"max_minutes_per_run": None, "max_minutes_per_day": None})

    witness = DatasetWitness(dataset, ledger, settings, client.platform, client.concurrency)
    witnessed: dict[str, TaskRecord] = {}
    looked_for: set[Candidate] = set()

    def decide() -> list[Decision]:
        found = with_witnessed(known, witnessed.values())
        return plan_submissions(list(candidates.values()), found, unlimited, now=now)

    # What a file really holds may tell it apart from what it was taken for, and then it is looked for as that.
    while creating := [
        decision.candidate
        for decision in decide()
        if decision.action is Action.SUBMIT and decision.candidate not in looked_for
    ]:
        for candidate, task in witness.look(creating):
            looked_for.add(candidate)
            if isinstance(task, DatasetError):
                unreadable[candidate.key] = str(task)
                del candidates[candidate.key]
            elif task is not None:
                witnessed[candidate.key] = task
        paid = {decision.candidate.key for decision in decide() if decision.action is Action.SUBMIT}
        opened = [files[one.key] for one in creating if one.key in paid and one.minutes is None]
        for key, outcome in _measure(opened, candidates, library, settings, client.concurrency):
            if isinstance(outcome, MediaError):
                unreadable[key] = str(outcome)
                del candidates[key]
            else:
                if outcome.settings_digest == candidates[key].settings_digest:
                    looked_for.add(outcome)
                candidates[key] = outcome
    planned = _planned(decide(), with_witnessed(known, witnessed.values()), policy)
    for key, words in unreadable.items():
        planned[key] = PlannedFile(key, Prospect.UNREADABLE, None, words)
    return SpendingPlan(
        files=[planned[key] for key in files if key in planned],
        left_out=dict(listing.skipped),
        price_per_minute=policy.price_per_minute,
        minutes_left_today=read_day_budget(ledger, policy, now).left,
        limits=spending_limits(client, policy),
        max_minutes_per_run=policy.max_minutes_per_run,
    )


def _measure(
    creating: Sequence[MediaFile],
    candidates: Mapping[str, Candidate],
    library: MediaLibrary,
    settings: EmbeddingSettings,
    concurrency: int,
) -> Iterator[tuple[str, Candidate | MediaError]]:
    for file, found in probe_all(library, creating, concurrency):
        if isinstance(found, MediaError):
            yield file.key, found
        else:
            yield file.key, measured(candidates[file.key], file, found, settings)[0]


def _planned(decisions: Iterable[Decision], known: Known, policy: PipelinePolicy) -> dict[str, PlannedFile]:
    own: dict[str, list[TaskRecord]] = {}
    for record in known.records:
        own.setdefault(record.media, []).append(record)
    planned = {}
    for decision in decisions:
        candidate = decision.candidate
        prospect = prospect_of(decision, known, own.get(candidate.key, []), policy)
        limit = over_a_limit(candidate.minutes, policy) if prospect is Prospect.OVER_A_LIMIT else None
        planned[candidate.key] = PlannedFile(candidate.key, prospect, candidate.minutes, limit or decision.reason)
    return planned
