"""Plan of a submission: what is done with each media file, decided over plain values and told before money is spent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from embed_pipeline.errors import MediaError
from embed_pipeline.ledger import Content, Step, TaskRow, TaskState
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.discover import content_token, import_results
from embed_pipeline.pipeline.settings import PipelinePolicy

if TYPE_CHECKING:
    from embed_pipeline.client import Limits as ClientLimits
    from embed_pipeline.ledger.ledger import FileOverview
    from embed_pipeline.media import MediaFile, MediaInfo, MediaLibrary


class PlannedAction(StrEnum):
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
    REFUSED = "refused"
    OVER_A_LIMIT = "over a limit"
    UNREADABLE = "unreadable"


CREATING = (
    PlannedAction.NEW,
    PlannedAction.CHANGED,
    PlannedAction.OTHER_SETTINGS,
    PlannedAction.OTHER_PLATFORM,
    PlannedAction.RETRY,
)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One media file in a plan.

    Args:
        media: Its partition key.
        action: What would be done with it.
        minutes: Its length in minutes; None where nothing would be created, so that it was not opened.
        reason: Why, for people.
    """

    media: str
    action: PlannedAction
    minutes: float | None
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON takes it."""
        return {**asdict(self), "action": self.action.value}


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
        """Return the least time in seconds that so much takes: the first window's share is there at once."""
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
        """How many files there are of each action; every action is named."""
        found = Counter(file.action for file in self.files)
        return {action.value: found.get(action, 0) for action in PlannedAction}

    @property
    def created(self) -> list[PlannedFile]:
        """The files that a task would be created for."""
        return [file for file in self.files if file.action in CREATING]

    @property
    def minutes(self) -> float:
        """Media minutes of the tasks that would be created."""
        return sum(file.minutes or 0.0 for file in self.created)

    def minutes_of(self, action: PlannedAction) -> float:
        """Return the media minutes of the files with one action."""
        return sum(file.minutes or 0.0 for file in self.files if file.action is action)

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
        """The runs that it takes at the least: what is left over max_minutes_per_run, the next one submits."""
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
        """Return the plan as JSON takes it."""
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


def in_hours(seconds: float) -> str:
    """Return a length of time as people say it."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


def refusal(info: MediaInfo, size_bytes: int | None, policy: PipelinePolicy) -> tuple[PlannedAction, str] | None:
    """Return why a media file is not submitted, judged by what it holds; None for one that is.

    Args:
        info: What probing found.
        size_bytes: The size of the file, where known.
        policy: The team's choices; its bounds on media files.
    """
    from embed_pipeline.media import violation

    reason = violation(info, size_bytes, policy.bounds())
    return None if reason is None else (refused_action(reason), reason)


def refused_action(reason: str) -> PlannedAction:
    """Return the action that stands for a refusal."""
    bounds = (PlannedAction.TOO_SHORT, PlannedAction.TOO_LONG)
    return next((one for one in bounds if reason.startswith(one)), PlannedAction.REFUSED)


def over_a_limit(minutes: float | None, policy: PipelinePolicy) -> str | None:
    """Return which limit a media file is longer than, so that no run and no day ever has room for it; None for none.

    Args:
        minutes: Minutes of it that would be embedded; None where its length is not known.
        policy: The team's choices.
    """
    for name, limit in (
        ("max_minutes_per_run", policy.max_minutes_per_run),
        ("max_minutes_per_day", policy.max_minutes_per_day),
    ):
        if minutes is not None and limit is not None and minutes > limit:
            return f"longer than {name} ({limit:g}) allows at all; raise it, or the file is never submitted"
    return None


def set_size(interruptions: int, largest: int) -> int:
    """Return how many media files a run takes together: fewer after runs died on them, then one alone.

    Args:
        interruptions: Runs that died while they worked on the file.
        largest: Files in a run, at the most.
    """
    if interruptions < 2:
        return largest
    return max(largest // 8, 1) if interruptions == 2 else 1


def in_sets(interruptions: Mapping[str, int], largest: int) -> Iterator[list[str]]:
    """Yield media files in the sets that a run takes together, those first on which no run died.

    Args:
        interruptions: Runs that died while they worked on each file, by partition key.
        largest: Files in a set, at the most.
    """
    by_size: dict[int, list[str]] = {}
    for key in sorted(interruptions, key=interruptions.__getitem__):
        by_size.setdefault(set_size(interruptions[key], largest), []).append(key)
    for size, keys in by_size.items():
        for start in range(0, len(keys), size):
            yield keys[start : start + size]


def create_reason(before: FileOverview | None, content: Content, task: TaskRow | None) -> tuple[PlannedAction, str]:
    """Return why a task is created.

    Args:
        before: What the ledger knows of the media file.
        content: What would be embedded.
        task: The latest task of that content; None where there was none.
    """
    if task is not None and task.state is not TaskState.CLAIMED:
        return PlannedAction.RETRY, f"attempt {task.attempt} is {task.state.value}"
    if before is not None and before.embedded_fingerprint is not None:
        if before.embedded_fingerprint != content.fingerprint:
            return PlannedAction.CHANGED, "its content is not the one that is embedded"
        if before.embedded_platform != content.platform:
            return PlannedAction.OTHER_PLATFORM, f"it is embedded on {before.embedded_platform}"
        if before.embedded_digest != content.settings_digest:
            return PlannedAction.OTHER_SETTINGS, "it is embedded under other settings"
    return PlannedAction.NEW, "new content"


def no_create_reason(step: Step, task: TaskRow | None, key: str) -> tuple[PlannedAction, str]:
    """Return why no task is created for a content.

    Args:
        step: The next step for it.
        task: Its latest task.
        key: The media file.
    """
    match step:
        case Step.BACK_OFF:
            return PlannedAction.WAITING, "it failed a short while ago, and is tried again later"
        case Step.RECOVER:
            return PlannedAction.WAITING, "it is not known yet whether a run that died has created its task"
        case Step.GIVE_UP:
            error = (task.error if task is not None else None) or "it failed"
            if task is None or task.state is not TaskState.REFUSED:
                return PlannedAction.FAILED, f"{error}; retry it by hand"
            return refused_action(error), error
        case _:
            if task is not None and task.key != key:
                return PlannedAction.SAME_CONTENT, f"the same content as {task.key}"
            return PlannedAction.UNCHANGED, "its task serves it"


def spending_limits(limits: ClientLimits | None, policy: PipelinePolicy) -> list[SpendingLimit]:
    """Return the configured limits that spread a submission over time: the platform's plan and the team's own."""
    configured = (
        ("requests_per_minute", "tasks", limits and limits.requests_per_minute, 60.0),
        ("requests_per_day", "tasks", limits and limits.requests_per_day, 86400.0),
        ("media_minutes_per_hour", "minutes", limits and limits.media_minutes_per_hour, 3600.0),
        ("media_minutes_per_day", "minutes", limits and limits.media_minutes_per_day, 86400.0),
        ("max_minutes_per_day", "minutes", policy.max_minutes_per_day, 86400.0),
    )
    return [SpendingLimit(name, of, amount, window) for name, of, amount, window in configured if amount]


def probe_all(
    library: MediaLibrary, files: Iterable[MediaFile], concurrency: int
) -> Iterator[tuple[MediaFile, MediaInfo | MediaError]]:
    """Read the headers of some media files, several at once.

    Args:
        library: Where they are.
        files: Which.
        concurrency: Files open at once.

    Yields:
        Each file, in order, with what it holds or why it cannot be played.
    """

    def probe(file: MediaFile) -> tuple[MediaFile, MediaInfo | MediaError]:
        try:
            return file, library.probe(file)
        except MediaError as error:
            return file, error

    with ThreadPoolExecutor(concurrency) as pool:
        yield from pool.map(probe, files)


def make_plan(pipeline: PipelineContext, *, limits: ClientLimits | None = None) -> SpendingPlan:
    """Plan the submission of a whole library; creates no task and reports nothing.

    Args:
        pipeline: The pipeline; its platform is not asked anything.
        limits: What the platform's plan allows.

    Raises:
        MediaError: The library cannot be read.
        LedgerError: The ledger cannot be reached.
    """
    import_results(pipeline)
    planner = _Planner(pipeline)
    planned = planner.run()
    policy, left = pipeline.policy, None
    if policy.max_minutes_per_day is not None:
        left = max(policy.max_minutes_per_day - pipeline.ledger.spent_today(pipeline.target).minutes, 0.0)
    return SpendingPlan(
        files=planned,
        left_out=dict(planner.listing.skipped),
        price_per_minute=policy.price_per_minute,
        minutes_left_today=left,
        limits=spending_limits(limits, policy),
        max_minutes_per_run=policy.max_minutes_per_run,
    )


class _Planner:
    """Plans one submission; what a file really holds may tell it apart from what it was taken for."""

    def __init__(self, pipeline: PipelineContext) -> None:
        self._pipeline = pipeline
        self.listing = pipeline.library.list()
        self._files = {file.key: file for file in self.listing.files}
        self._known: dict[str, FileOverview] = {}
        self._planned: dict[str, PlannedFile] = {}
        self._contents: dict[str, Content] = {}
        self._minutes: dict[str, float] = {}

    def run(self) -> list[PlannedFile]:
        """Return what would be done with each file, in the library's order."""
        self._read()
        unsettled: Collection[str] = [key for key in self._files if key not in self._planned]
        while unsettled:
            unsettled = self._decide(unsettled)
        return [self._planned[key] for key in self._files]

    def _read(self) -> None:
        """Take the content of each file from the ledger, or read it where it may be another by now."""
        target, changed = self._pipeline.target, []
        self._known = {row.key: row for row in self._pipeline.ledger.overview(target)}
        for key, file in self._files.items():
            row = self._known.get(key)
            if row is None or row.token is None or row.token != content_token(file):
                changed.append(file)
                continue
            self._contents[key] = Content(row.fingerprint, target.digest(row.media_type), target.platform)
            if row.step == Step.NONE and row.state == "embedded":
                self._planned[key] = PlannedFile(key, PlannedAction.UNCHANGED, None, "embedded")
        fingerprints = self._pipeline.library.fingerprints(
            changed, on_problem=lambda file, error: self._unreadable(file.key, error)
        )
        for key, fingerprint in fingerprints.items():
            row = self._known.get(key)
            media_type = (
                row.media_type if row is not None and row.fingerprint == fingerprint else self._files[key].media_type
            )
            self._contents[key] = Content(fingerprint, target.digest(media_type), target.platform)

    def _decide(self, keys: Collection[str]) -> list[str]:
        """Decide on some files; return those whose content turned out to be of another type."""
        latest = self._pipeline.ledger.tasks.latest(
            self._pipeline.target, {self._contents[key] for key in keys if key in self._contents}
        )
        creating: list[str] = []
        first: dict[Content, str] = {}
        for key in keys:
            content = self._contents.get(key)
            if content is None:
                self._planned.setdefault(key, PlannedFile(key, PlannedAction.UNREADABLE, None, "it could not be read"))
                continue
            task, step = latest.get(content, (None, Step.SUBMIT))
            row = self._known.get(key)
            if row is not None and row.state == "embedded" and row.fingerprint == content.fingerprint:
                self._planned[key] = PlannedFile(key, PlannedAction.UNCHANGED, None, "embedded")
            elif step is not Step.SUBMIT:
                self._planned[key] = PlannedFile(key, *_with(no_create_reason(step, task, key)))
            elif content in first:
                same = f"the same content as {first[content]}"
                self._planned[key] = PlannedFile(key, PlannedAction.SAME_CONTENT, None, same)
            else:
                first[content] = key
                creating.append(key)
        again = self._probe([self._files[key] for key in creating if key not in self._minutes])
        for key in creating:
            if key in self._planned or key in again:
                continue
            task, _ = latest.get(self._contents[key], (None, Step.SUBMIT))
            minutes = self._minutes[key]
            action, reason = create_reason(self._known.get(key), self._contents[key], task)
            if (limit := over_a_limit(minutes, self._pipeline.policy)) is not None:
                action, reason = PlannedAction.OVER_A_LIMIT, limit
            self._planned[key] = PlannedFile(key, action, minutes, reason)
        # Those that follow a file which turned out to be another content are decided anew with it.
        followed = {f"the same content as {key}" for key in again}
        return [*again, *(key for key in keys if key in self._planned and self._planned[key].reason in followed)]

    def _probe(self, files: Sequence[MediaFile]) -> list[str]:
        settings, policy, again = self._pipeline.settings, self._pipeline.policy, []
        for file, found in probe_all(self._pipeline.library, files, self._pipeline.concurrency):
            if isinstance(found, MediaError):
                self._unreadable(file.key, found)
                continue
            minutes = settings.embedded_minutes(found.duration_sec)
            self._minutes[file.key] = minutes
            if (refused := refusal(found, file.size, policy)) is not None:
                self._planned[file.key] = PlannedFile(file.key, refused[0], minutes, refused[1])
                continue
            digest = self._pipeline.target.digest("video" if found.has_video else "audio")
            before = self._contents[file.key]
            if digest != before.settings_digest:
                self._contents[file.key] = Content(before.fingerprint, digest, before.platform)
                again.append(file.key)
        return again

    def _unreadable(self, key: str, error: MediaError) -> None:
        self._planned[key] = PlannedFile(key, PlannedAction.UNREADABLE, None, str(error))


def _with(action_and_reason: tuple[PlannedAction, str]) -> tuple[PlannedAction, None, str]:
    action, reason = action_and_reason
    return action, None, reason
