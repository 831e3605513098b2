"""Publication: the table of all current segments, the table of outcomes, and the status of each media file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from embed_pipeline.errors import DatasetError
from embed_pipeline.ledger import MediaRow, MediaState, TaskState
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.maintain import check
from embed_pipeline.pipeline.settings import PipelinePolicy

if TYPE_CHECKING:
    from embed_pipeline.dataset import MediaOutcome, Snapshot, WrittenFile

# A change that is being committed while another one is seen may bear an earlier time.
_COMMIT_SEC = 2.0


@dataclass(frozen=True)
class Published:
    """A snapshot of the table.

    Args:
        snapshot: The snapshot.
        files_written: Files that were written now.
        states: How many media files are in each state.
        minutes_billed: Minutes of all tasks that were created.
        outcomes: The table of outcomes.
        leftovers: Leftovers of crashes that were removed.
    """

    snapshot: Snapshot
    files_written: int
    states: Mapping[MediaState, int]
    minutes_billed: float
    outcomes: WrittenFile
    leftovers: int

    def __str__(self) -> str:
        snapshot = self.snapshot
        return (
            f"Snapshot {snapshot.snapshot_id}: {snapshot.rows} segments of {snapshot.media} media files in "
            f"{len(snapshot.files)} files, {self.files_written} of them written now; {sum(self.states.values())} rows "
            f"in the table of outcomes; {self.leftovers} leftovers removed."
        )


@dataclass(frozen=True, slots=True)
class MediaStatus:
    """One media file's status.

    Args:
        media: The partition key.
        state: Its state.
        reason: Why it failed or expired, and whether it is tried again by itself; what an unsubmitted one waits for,
            since when and until when; that its task is processing for too long or its result about to expire; what
            validation found wrong with its segments; empty otherwise.
        task_id: Its latest task.
        attempt: Which attempt on its content that is.
        segments: Rows in the dataset.
        minutes: Its length in minutes, where known.
    """

    media: str
    state: MediaState
    reason: str = ""
    task_id: str | None = None
    attempt: int | None = None
    segments: int | None = None
    minutes: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON takes it."""
        return {**asdict(self), "state": self.state.value}


@dataclass(frozen=True, slots=True)
class RefreshDecision:
    """Whether the table is built now, and why, or why not."""

    due: bool
    reason: str


def publish(pipeline: PipelineContext) -> Published:
    """Build the next snapshot of the table, and the table of outcomes beside it.

    Media files that are gone are in the table of outcomes, and their segments in the dataset, but not in the table.

    Args:
        pipeline: The pipeline.

    Raises:
        DatasetError: The dataset cannot be written, or is another pipeline's.
        LedgerError: The ledger cannot be reached.
    """
    dataset, ledger = pipeline.dataset, pipeline.ledger
    dataset.claim(pipeline.name)
    # Read before anything else: what changes while this runs is taken up by the next one.
    started = ledger.now() - _COMMIT_SEC
    billed = ledger.minutes_billed(pipeline.name)
    states: Counter[MediaState] = Counter()

    def rows() -> Iterator[MediaOutcome]:
        for row in ledger.all_rows(pipeline.target):
            states[row.state] += 1
            yield outcome_of(row, *billed.get(row.key, (0.0, 0)))

    written = dataset.write_outcomes(rows())
    before = dataset.snapshot()
    wanted = ledger.segment_sets(pipeline.name, gone=False)
    try:
        snapshot = dataset.compact(keys=wanted, retain=pipeline.policy.snapshots_kept)
    except DatasetError:
        # One file that does not open must not keep all others from the table; the check names it.
        damaged = check(pipeline).damaged
        if not damaged:
            raise
        sound = {key: digest for key, digest in wanted.items() if key not in damaged}
        snapshot = dataset.compact(keys=sound, retain=pipeline.policy.snapshots_kept)
    leftovers = dataset.sweep()
    ledger.note(pipeline.name, table_built_at=started)
    unchanged = before is not None and before.snapshot_id == snapshot.snapshot_id
    return Published(
        snapshot=snapshot,
        files_written=0 if unchanged else len(snapshot.written_files),
        states=states,
        minutes_billed=sum(minutes or 0.0 for minutes, _ in billed.values()),
        outcomes=written,
        leftovers=len(leftovers),
    )


def refresh_due(pipeline: PipelineContext) -> RefreshDecision:
    """Decide whether the table is built now, from what the ledger knows."""
    ledger, policy = pipeline.ledger, pipeline.policy
    changed_at, noted, now = ledger.changed_at(pipeline.name), ledger.noted(pipeline.name), ledger.now()
    if changed_at is None:
        return RefreshDecision(False, "There are no media files yet.")
    built_at, asked_at = noted["table_built_at"], noted["table_requested_at"]
    changed = built_at is None or changed_at > built_at
    pending = len(ledger.pending(pipeline.name)) if changed else 0
    age_sec = None if asked_at is None else now - asked_at
    return decide_refresh(changed=changed, pending=pending, age_sec=age_sec, policy=policy)


def decide_refresh(*, changed: bool, pending: int, age_sec: float | None, policy: PipelinePolicy) -> RefreshDecision:
    """Decide whether the table is built now.

    Args:
        changed: Whether anything changed since it was built.
        pending: Tasks whose results are still to come.
        age_sec: Seconds since it was last asked for, whatever came of that; None for never.
        policy: How often at the most and at the least.
    """
    if age_sec is None:
        # However little there is to put into the first table: its checks are what shows that nothing comes in.
        return RefreshDecision(changed, "Nothing is known of any media file yet.")
    if age_sec >= policy.table_longest_sec:
        return RefreshDecision(True, "It was last asked for long ago.")
    if not changed:
        return RefreshDecision(False, "Nothing has changed since embeddings_table was built.")
    # With nothing pending, what changed is in; the sensor's own interval keeps runs apart.
    wait_sec = policy.table_interval_sec if pending else min(policy.table_interval_sec, 2 * policy.sensor_interval_sec)
    if age_sec >= wait_sec:
        return RefreshDecision(True, "Something has changed.")
    return RefreshDecision(
        False,
        f"{pending} tasks are pending; embeddings_table is asked for again in {wait_sec - age_sec:.0f} s at most.",
    )


def outcome_of(row: MediaRow, minutes_billed: float | None, tasks_created: int) -> MediaOutcome:
    """Return the row of one media file in the table of outcomes.

    Args:
        row: The media file.
        minutes_billed: Minutes of the tasks that were created for it; one that it shares is billed where it began.
        tasks_created: How many those were; 0 leaves the minutes out.
    """
    from embed_pipeline.dataset import MediaOutcome

    task, embedded = row.task, row.state is MediaState.EMBEDDED
    minutes = task.minutes * 60 if task is not None and task.minutes is not None else None
    failed = row.state in {MediaState.FAILED, MediaState.EXPIRED}
    return MediaOutcome(
        media=row.key,
        media_uri=row.uri,
        state=row.state.value,
        fingerprint=row.fingerprint,
        media_type=row.media_type,
        duration_sec=row.duration_sec if row.duration_sec is not None else minutes,
        error=((task.error if task is not None else None) or "no reason was given") if failed else None,
        attempts=task.attempt if task is not None else 0,
        task_id=task.task_id if task is not None else row.task_id,
        segments=row.segments if embedded else None,
        space=row.space if embedded else None,
        settings_digest=task.content.settings_digest if task is not None else row.embedded_digest,
        submitted_at=_time(task.created_at) if task is not None else None,
        finished_at=_time(task.ready_at) if task is not None and embedded else None,
        embedded_at=_time(row.written_at) if embedded else None,
        minutes_billed=minutes_billed if tasks_created else 0.0 if task is not None else None,
    )


def read_statuses(pipeline: PipelineContext, *, states: Iterable[MediaState] | None = None) -> list[MediaStatus]:
    """Return the status of every media file, sorted by partition key.

    Args:
        pipeline: The pipeline.
        states: Only media files in these states; None for all.
    """
    policy, now = pipeline.policy, pipeline.ledger.now()
    waits_for = _what_all_wait_for(pipeline)
    only = None if states is None else set(states)
    return [
        MediaStatus(
            media=row.key,
            state=row.state,
            reason=reason_of(row, policy, now, waits_for),
            task_id=row.task.task_id if row.task is not None else row.task_id,
            attempt=row.task.attempt if row.task is not None else None,
            segments=row.segments if row.embedded_task_id is not None else None,
            minutes=_minutes(row),
        )
        for row in pipeline.ledger.all_rows(pipeline.target, states=only)
    ]


def reason_of(row: MediaRow, policy: PipelinePolicy, now: float, waits_for: str = "") -> str:
    """Return why a media file is in its state, where there is something to say.

    Args:
        row: The media file.
        policy: The team's choices.
        now: The time by the ledger's clock.
        waits_for: What keeps every unsubmitted file from its task.
    """
    match row.state:
        case MediaState.FAILED | MediaState.EXPIRED:
            return _why_failed(row, policy, now)
        case MediaState.UNSUBMITTED:
            return _deferral(row, now) or (
                "a run is creating its task"
                if row.task is not None and row.task.state is TaskState.CLAIMED
                else waits_for
            )
        case MediaState.PROCESSING:
            # What is lost if nobody acts comes before why.
            return expiring(row, policy, now) or stuck(row, policy, now) or _deferral(row, now)
        case MediaState.EMBEDDED:
            return row.problems.get("coverage", "")
        case _:
            return ""


def is_tried_again(row: MediaRow, policy: PipelinePolicy) -> bool:
    """Return whether another task follows without anybody asking for it."""
    task = row.task
    passes = task is not None and task.state in {TaskState.RETRYABLE, TaskState.EXPIRED}
    return policy.submit_automatically and passes and task is not None and task.tries < policy.max_attempts


def stuck(row: MediaRow, policy: PipelinePolicy, now: float) -> str:
    """Return that a task has been processing for longer than it should; empty for one that has not."""
    task = row.task
    if task is None or task.created_at is None or now - task.created_at <= policy.stuck_after_sec:
        return ""
    return (
        f"task {task.task_id} has been processing for {_hours(now - task.created_at)}. Look whether "
        "embedding_ready_sensor is on and its ticks succeed; then ask the platform about the task, or materialize "
        "embedding_tasks for this file with force."
    )


def expiring(row: MediaRow, policy: PipelinePolicy, now: float) -> str:
    """Return that the platform will soon drop a task's result, uncollected; empty for one that it will not."""
    task = row.task
    if task is None or task.created_at is None:
        return ""
    left_sec = task.created_at + policy.result_lifetime_sec - now
    if left_sec >= policy.expiry_alarm_sec:
        return ""
    when = f"expires in {_hours(left_sec)}" if left_sec > 0 else "may have expired"
    return (
        f"the result of task {task.task_id} {when}, and its minutes would be paid again. Materialize "
        "segment_embeddings for this file now, and look why embedding_ready_sensor has not asked for it."
    )


def failure_advice(row: MediaRow) -> str:
    """Return why a media file has no segments, and what to do about it."""
    words = ((row.task.error if row.task is not None else None) or "no reason was given").strip()
    sentence = words if words.endswith((".", "!", "?")) else f"{words}."
    verb = "To try again" if row.state is MediaState.FAILED else "To embed it again"
    return f"{row.state.value}: {sentence} {verb}, materialize embedding_tasks for it with retry_failed."


def mixed_spaces(media_by_space: Mapping[str, int]) -> str | None:
    """Return that a table mixes vectors that cannot be compared; None for one that does not.

    Args:
        media_by_space: How many media files' results the table holds of each vector space.
    """
    if len(media_by_space) < 2:
        return None
    counts = ", ".join(f"{space} ({count} media files)" for space, count in sorted(media_by_space.items()))
    return (
        f"The table holds more than one vector space: {counts}. Vectors of different spaces cannot be compared; name "
        "one of them when you read, or materialize embedding_tasks for the files of the other one."
    )


def _why_failed(row: MediaRow, policy: PipelinePolicy, now: float) -> str:
    task = row.task
    words = (task.error if task is not None else None) or "no reason was given"
    if task is None or not is_tried_again(row, policy):
        return words
    when = f" after {_clock_time(task.retry_at)}" if task.retry_at is not None and task.retry_at > now else ""
    return f"{words} (attempt {task.tries} of {policy.max_attempts}; it is tried again by itself{when})"


def _deferral(row: MediaRow, now: float) -> str:
    if row.deferred_reason is None:
        return ""
    since = f", since {_clock_time(row.deferred_since)}" if row.deferred_since is not None else ""
    until = (
        f"; tried next after {_clock_time(row.deferred_until)}"
        if row.deferred_until is not None and row.deferred_until > now
        else ""
    )
    return f"deferred: {row.deferred_reason}{since}{until}"


def _what_all_wait_for(pipeline: PipelineContext) -> str:
    """Return what keeps every file that is due from its task; empty where it is only a matter of the next tick."""
    policy = pipeline.policy
    if policy.max_minutes_per_day is not None:
        spent = pipeline.ledger.spent_today(pipeline.target)
        # What is left of it may be too little for any of them; how long they are is not known here.
        if spent.minutes > 0:
            more = f"; more from {_clock_time(spent.frees_at)} on" if spent.frees_at is not None else ""
            limit = f"{spent.minutes:.1f} of max_minutes_per_day {policy.max_minutes_per_day:g} spent in 24 hours"
            return f"deferred: {limit}{more}"
    if not policy.submit_automatically:
        return "waits for the schedule, or for somebody to submit it: submit_automatically is off"
    return ""


def _minutes(row: MediaRow) -> float | None:
    if row.duration_sec is not None:
        return round(row.duration_sec / 60, 4)
    return row.task.minutes if row.task is not None else None


def _clock_time(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, tz=UTC):%d %b %H:%M:%S} UTC"


def _time(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, tz=UTC)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.0f} hours" if hours >= 2 else f"{max(hours, 0) * 60:.0f} minutes"
