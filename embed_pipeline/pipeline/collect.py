"""Collection: learn which tasks have ended, bring their segments into the dataset, and lose no result."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from embed_pipeline.errors import DatasetError, EmbedPipelineError
from embed_pipeline.ledger import MediaRow, TaskRow, Written
from embed_pipeline.ledger.ledger import PendingFile
from embed_pipeline.ledger.states import ENDED, TaskState
from embed_pipeline.pipeline.context import (
    CircuitBreaker,
    PipelineContext,
    Report,
    Unreported,
    describe_exception,
    report_nothing,
    traceback_of,
    traffic_since,
    working,
)
from embed_pipeline.pipeline.settings import EmbeddingSettings, MediaType, backoff_sec, settings_of
from embed_pipeline.pipeline.validate import Problems, unfit, validate

if TYPE_CHECKING:
    from embed_pipeline.client import ClientStats, EmbedClient, EmbeddingTaskResponse
    from embed_pipeline.dataset import MediaSegments, WrittenFile

_FIRST_LOOK_SEC = 1.0
_SLOWEST_LOOK_SEC = 20.0
_CONCURRENCY = 4
"""Results fetched at once; each may hold a hundred megabytes while it is read."""
_ALONE_AFTER = 2
"""Runs that died while they fetched a result, after which it is fetched while nothing else is under way."""
_DEFERRED_SEC = 30.0
_LONGEST_BACKOFF_SEC = 3600.0
# A task is recorded when its request was answered, which may be long after the platform made it.
_RECORDED_LATE = timedelta(minutes=15)
_SKEW = timedelta(minutes=2)
_LONGEST_WINDOW = timedelta(hours=1)
_TASKS_PER_WINDOW = 2500


@dataclass
class CollectionReport:
    """Outcome of a collection, by partition key.

    Args:
        collected: Segments written.
        size_bytes: Bytes written.
        problems: What validation found wrong with what was written.
        processing: Tasks that were still processing when they were last looked at.
        unseen: Why others were not looked at.
        failed: Why others have no segments.
        stopped: Why the run sent no more requests, where something stands in the way of them all.
        traffic: Requests, retries and waits.
    """

    collected: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    problems: dict[str, Problems] = field(default_factory=dict)
    processing: dict[str, str] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    traffic: ClientStats | None = None

    @property
    def segments(self) -> int:
        """Segments written."""
        return sum(self.collected.values())

    def __str__(self) -> str:
        return (
            f"{len(self.collected)} media files collected with {self.segments} segments, "
            f"{len(self.processing)} still processing, {len(self.unseen)} not looked at, {len(self.failed)} failed."
        )


Describe = Callable[["MediaSegments", "WrittenFile"], dict[str, Any]]
"""What a report shows of segments besides the numbers, such as pictures; JSON values."""


@dataclass(frozen=True, slots=True)
class _InDataset:
    """Segments that were written; not the segments themselves: a run may write more than memory holds."""

    written: tuple[Written, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _NoResult:
    """A task that gives no result."""

    state: TaskState
    message: str


@dataclass(frozen=True, slots=True)
class _NotReady:
    """A task that is still processing."""


_Outcome = _InDataset | _NoResult | _NotReady


def collect(
    pipeline: PipelineContext,
    keys: Sequence[str],
    *,
    run_id: str | None = None,
    report: Report = report_nothing,
    describe: Describe = lambda _segments, _written: {},
    log: Callable[[str], None] = lambda _: None,
) -> CollectionReport:
    """Write the segments of some media files, waiting a bounded time for tasks that are not ready.

    Args:
        pipeline: The pipeline, with a client.
        keys: Partition keys.
        run_id: The run.
        report: Called with the changes that the run is to report, in the calling thread.
        describe: Makes what a report shows besides; called in threads.
        log: Called with what is worth reading in the run's log.

    Raises:
        LedgerError: The ledger cannot be reached.
        DatasetError: The dataset is another pipeline's.
    """
    run = _Collection(pipeline, run_id or str(uuid4()), report, describe, log)
    client = pipeline.connected()
    before = client.stats
    pipeline.dataset.claim(pipeline.name)
    with working(pipeline, run.run_id, uuid4().hex):
        pipeline.ledger.media.begin_work(pipeline.name, keys, run_id=run.run_id, lease_sec=pipeline.policy.lease_sec)
        run.collect(keys)
    run.report.traffic = traffic_since(before, client.stats)
    return run.report


class _Collection:
    """One run's collection."""

    def __init__(
        self,
        pipeline: PipelineContext,
        run_id: str,
        report: Report,
        describe: Describe,
        log: Callable[[str], None],
    ) -> None:
        self.pipeline, self.run_id, self.log = pipeline, run_id, log
        self.report = CollectionReport()
        self._unreported, self._describe = Unreported(report), describe
        self._breaker = CircuitBreaker()
        self._rows: dict[str, MediaRow] = {}
        self._tasks: dict[str, TaskRow] = {}

    def collect(self, keys: Sequence[str]) -> None:
        """Collect what can be, and wait for the rest as long as the policy allows."""
        policy, ledger = self.pipeline.policy, self.pipeline.ledger
        self._rows = ledger.rows(self.pipeline.target, keys)
        groups = self._groups(keys)
        deadline = time.monotonic() + policy.collect_wait_sec
        waiting, pause = self._fetch(list(groups), groups), _FIRST_LOOK_SEC
        while waiting and self.report.stopped is None and time.monotonic() < deadline:
            if pause == _FIRST_LOOK_SEC:
                self.log(f"Waiting for {len(waiting)} tasks that are still processing.")
            time.sleep(min(pause, max(deadline - time.monotonic(), 0.0)))
            pause = min(pause * 1.5, _SLOWEST_LOOK_SEC)
            waiting = self._still_processing(waiting, groups)
        for task_id in waiting:
            self.report.processing.update(dict.fromkeys(groups[task_id], task_id))
        self._defer()

    def _groups(self, keys: Sequence[str]) -> dict[str, list[str]]:
        """Group the media files by their tasks; one result serves all names of a content."""
        tasks = self.pipeline.ledger.tasks.by_id([row.task_id for row in self._rows.values() if row.task_id])
        groups: dict[str, list[str]] = {}
        for key in keys:
            row = self._rows.get(key)
            task = tasks.get(row.task_id) if row is not None and row.task_id is not None else None
            if row is None or task is None or task.task_id is None:
                self.report.failed[key] = self._why_without_task(row)
            elif task.state in ENDED:
                self.report.failed[key] = task.error or f"task {task.task_id} has {task.state.value}"
            elif task.content.platform != self.pipeline.platform:
                # Another platform does not know it, and must not be taken to say that it expired.
                self.report.failed[key] = (
                    f"task {task.task_id} was created on {task.content.platform}, and this pipeline asks "
                    f"{self.pipeline.platform}. Set EMBED_BASE_URL and EMBED_API_KEY back to collect it, or "
                    "materialize embedding_tasks anew."
                )
            else:
                self._tasks[task.task_id] = task
                groups.setdefault(task.task_id, []).append(key)
        return groups

    def _why_without_task(self, row: MediaRow | None) -> str:
        if row is not None and row.task is not None and row.task.error is not None:
            return row.task.error
        return "has no embedding task yet: materialize embedding_tasks for it first, or both assets together."

    def _still_processing(self, waiting: Sequence[str], groups: dict[str, list[str]]) -> list[str]:
        created = {
            task_id: datetime.fromtimestamp(self._tasks[task_id].created_at or 0.0, tz=UTC) for task_id in waiting
        }
        found = survey(self.pipeline.connected(), created)
        if found.problem is not None:
            self.report.stopped = str(found.problem)
            return list(waiting)
        ended = [task_id for task_id in waiting if found.has_ended(task_id)]
        left = set(self._fetch(ended, groups))
        return [task_id for task_id in waiting if task_id not in set(ended) or task_id in left]

    def _fetch(self, task_ids: Sequence[str], groups: dict[str, list[str]]) -> list[str]:
        """Fetch and write some at once; return the tasks that turned out to be still processing."""
        tries = {task_id: max(self._rows[key].interruptions for key in groups[task_id]) for task_id in task_ids}
        todo = deque(sorted(task_ids, key=tries.__getitem__))
        under_way: dict[Future[_Outcome], str] = {}
        unready: list[str] = []
        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            while under_way or (todo and self.report.stopped is None):
                starting: list[str] = []
                while todo and self.report.stopped is None and len(under_way) + len(starting) < _CONCURRENCY:
                    # From the first one that must be fetched alone on, all of them must.
                    if tries[todo[0]] >= _ALONE_AFTER and (under_way or starting):
                        break
                    starting.append(todo.popleft())
                    if tries[starting[0]] >= _ALONE_AFTER:
                        break
                if starting:
                    # Counted before it is done: the process may not live to tell.
                    keys = [key for task_id in starting for key in groups[task_id]]
                    self.pipeline.ledger.media.count_try(self.pipeline.name, keys)
                for task_id in starting:
                    under_way[pool.submit(self._result, self._tasks[task_id], groups[task_id])] = task_id
                # What is there is recorded before anything else is reported, which takes longer.
                timeout = 0.0 if self._unreported else None
                done = wait(under_way, timeout=timeout, return_when=FIRST_COMPLETED).done
                unready += self._take([(under_way.pop(future), future) for future in done], groups)
                self._unreported.report_some()
        self._unreported.report_all()
        self.pipeline.ledger.media.clear_tries(self.pipeline.name, [key for one in task_ids for key in groups[one]])
        for task_id in todo:
            self.report.unseen.update(dict.fromkeys(groups[task_id], self.report.stopped or ""))
        return unready

    def _take(self, done: Sequence[tuple[str, Future[_Outcome]]], groups: Mapping[str, list[str]]) -> list[str]:
        """Record what came of some fetches; return the tasks that are still processing."""
        target, ledger = self.pipeline.target, self.pipeline.ledger
        in_dataset: list[tuple[TaskRow, Sequence[Written]]] = []
        unready: list[str] = []
        for task_id, future in done:
            task, keys = self._tasks[task_id], groups[task_id]
            if (problem := future.exception()) is not None:
                self._take_problem(problem, keys)
                continue
            self._breaker.reset()
            match future.result():
                case _NotReady():
                    unready.append(task_id)
                case _InDataset(written, size_bytes):
                    in_dataset.append((task, written))
                    self.report.size_bytes += size_bytes
                case _NoResult(state, message):
                    self._end(task, keys, state, message)
        if in_dataset:
            self._unreported.add(ledger.tasks.collected_together(target, in_dataset, run_id=self.run_id))
            for file in (file for _, written in in_dataset for file in written):
                self.report.collected[file.key] = file.segments
                self.report.problems[file.key] = Problems(**file.problems)
        return unready

    def _take_problem(self, problem: BaseException, keys: Sequence[str]) -> None:
        """Record why a result could not be fetched or written."""
        if isinstance(problem, EmbedPipelineError):
            if self._breaker.trips_on(problem):
                self.report.stopped = self.report.stopped or str(problem)
                self.report.unseen.update(dict.fromkeys(keys, self.report.stopped))
            else:
                self.report.failed.update(dict.fromkeys(keys, str(problem)))
        elif isinstance(problem, Exception):
            # Whatever is wrong with one result, the others must not expire for it.
            self.report.failed.update(dict.fromkeys(keys, describe_exception(problem)))
            self.log(f"{keys[0]}: {traceback_of(problem)}")
        else:
            raise problem

    def _end(self, task: TaskRow, keys: Sequence[str], state: TaskState, message: str) -> None:
        """Record that a task gives no result."""
        retry_after_sec = None
        if state is TaskState.EXPIRED:
            retry_after_sec = 0.0
        elif state is not TaskState.FAILED:
            retry_after_sec = backoff_sec(task.tries, self.pipeline.policy.retry_backoff_sec)
        self._unreported.add(
            self.pipeline.ledger.tasks.ended(
                self.pipeline.target,
                task,
                state,
                message,
                retry_after_sec=retry_after_sec,
                run_id=self.run_id,
                own=set(keys),
            )
        )
        self.report.failed.update(dict.fromkeys(keys, message))

    def _defer(self) -> None:
        """Record what the others wait for."""
        policy, report = self.pipeline.policy, self.report
        reasons: dict[str, tuple[str, float | None]] = {}
        for key, row in self.pipeline.ledger.rows(self.pipeline.target, [*report.failed, *report.unseen]).items():
            if row.task_id is None or row.task_id == row.embedded_task_id:
                continue
            if key in report.unseen:
                reasons[key] = (report.unseen[key], _DEFERRED_SEC)
            else:
                wait_sec = backoff_sec(row.failures + 1, policy.retry_backoff_sec, longest_sec=_LONGEST_BACKOFF_SEC)
                reasons[key] = (report.failed[key], wait_sec)
        self.pipeline.ledger.media.defer(self.pipeline.name, reasons, failed=report.failed)

    # Below, what is done in the threads of the pool.

    def _result(self, task: TaskRow, keys: Sequence[str]) -> _Outcome:
        """Bring one result into the dataset under the name of each media file."""
        tolerated = self.pipeline.policy.interruptions_tolerated
        if max(self._rows[key].interruptions for key in keys) >= tolerated:
            return _NoResult(
                TaskState.FAILED,
                f"{tolerated} runs died while they collected this result, the last ones alone with it. Look at their "
                "logs (memory?); retry it by hand when that is mended.",
            )
        if task.state is TaskState.COLLECTED and (copied := self._copies(task, keys)) is not None:
            return copied
        outcome = self._fetched(task, keys)
        if isinstance(outcome, _NoResult) and outcome.state is TaskState.EXPIRED:
            return self._copies(task, keys) or outcome
        return outcome

    def _fetched(self, task: TaskRow, keys: Sequence[str]) -> _Outcome:
        """Fetch one result from the platform, and write it."""
        from embed_pipeline.client import EmptyResultError, NotFoundError, UnreadableResponseError, classify_failure

        task_id = str(task.task_id)
        try:
            response = self.pipeline.connected().v_2.tasks.retrieve(task_id)
            if response.id != task_id:
                raise EmbedPipelineError(
                    f"The platform was asked for task {task_id} and answered with task {response.id}. Nothing was "
                    "written; it is asked again."
                )
            if response.status == "ready":
                return self._write(task, keys, response)
        except NotFoundError as error:
            if error.code is None:
                # Not the platform's own words: a wrong address, or a gateway before it, says nothing of the task.
                raise
            gone = f"Task {task_id} is not known to the platform any more, and its result with it: {error}"
            return _NoResult(TaskState.EXPIRED, gone)
        except (UnreadableResponseError, EmptyResultError) as error:
            if getattr(error, "retryable", False):
                raise
            # Asking again gives the same; another task may give something else.
            return _NoResult(TaskState.RETRYABLE, str(error))
        if response.status != "failed":
            return _NotReady()
        words = response.error.message if response.error and response.error.message else "no reason given"
        match classify_failure(words):
            case "expired":
                return _NoResult(TaskState.EXPIRED, f"Task {task_id}: {words}")
            case "permanent":
                return _NoResult(TaskState.FAILED, words)
            case _:
                return _NoResult(TaskState.RETRYABLE, words)

    def _write(self, task: TaskRow, keys: Sequence[str], response: EmbeddingTaskResponse) -> _Outcome:
        """Write a result under the name of each media file; refuse one that is not what was asked for."""
        settings = settings_of(task)
        media_type: MediaType = "audio" if task.media_type == "audio" else "video"
        segments = _segments(task, self._rows[keys[0]], response, settings, media_type)
        if (problem := unfit(segments, settings)) is not None:
            return _NoResult(TaskState.FAILED, problem)
        extra: dict[str, Any] = {}
        ready_at = None if response.updated_at is None else response.updated_at.timestamp()
        asked = set(settings.options(media_type)) if "separate_embedding" in settings.types else set()
        if absent := sorted(asked - set(segments.embedding_option)):
            extra["absent_options"] = absent
        usage = getattr(response, "usage", None)
        extra["input_tokens"] = dict(getattr(usage, "input_tokens", None) or {})
        return self._written(task, keys, segments, settings, extra, ready_at)

    def _written(
        self,
        task: TaskRow,
        keys: Sequence[str],
        segments: MediaSegments,
        settings: EmbeddingSettings,
        extra: dict[str, Any],
        ready_at: float | None = None,
    ) -> _InDataset:
        written, size_bytes = [], 0
        for key in keys:
            own = replace(segments, media=key, media_uri=self._rows[key].uri)
            file = self.pipeline.dataset.write(own)
            size_bytes += file.size_bytes
            length_sec = self._rows[key].duration_sec
            problems = validate(own, settings, length_sec=length_sec)
            details = {
                "uri": file.uri,
                "dimension": own.dimension,
                "media_type": own.media_type,
                "minutes": task.minutes,
                "settings": dict(own.settings),
                **extra,
                **self._describe(own, file),
            }
            written.append(
                Written(
                    key,
                    file.rows,
                    own.space,
                    file.size_bytes,
                    own.duration_sec,
                    ready_at,
                    problems.as_dict(),
                    details,
                )
            )
        return _InDataset(tuple(written), size_bytes)

    def _copies(self, task: TaskRow, keys: Sequence[str]) -> _InDataset | None:
        """Write the task's segments that the dataset has under another name: a renamed file costs nothing."""
        dataset, digest = self.pipeline.dataset, task.content.settings_digest
        for name in [*keys, *self.pipeline.ledger.embedded_under(self.pipeline.name, str(task.task_id))]:
            try:
                segments = dataset.read_media(name, digest)
            except DatasetError:
                continue  # damaged: another name may have it, or the platform
            if segments is None or segments.task_id != task.task_id or segments.fingerprint != task.content.fingerprint:
                continue
            return self._written(task, keys, segments, settings_of(task), {})
        return None


def _segments(
    task: TaskRow,
    row: MediaRow,
    response: EmbeddingTaskResponse,
    settings: EmbeddingSettings,
    media_type: MediaType,
) -> MediaSegments:
    from embed_pipeline.dataset import MediaSegments, vector_space

    rows, metadata = response.segments, response.metadata
    name = getattr(metadata, "embedding_engine", None) or settings.model_name
    return MediaSegments(
        media=row.key,
        media_uri=row.uri,
        fingerprint=task.content.fingerprint,
        media_type=media_type,
        duration_sec=getattr(metadata, "duration", None),
        embedding_option=[option or "" for option in rows.embedding_option],
        embedding_scope=[scope or "" for scope in rows.embedding_scope],
        start_sec=rows.start_sec,
        end_sec=rows.end_sec,
        embedding=rows.embedding,
        embedding_uncertainty=rows.embedding_uncertainty,
        model_name=name,
        space=vector_space(name, rows.embedding.shape[1]),
        settings=settings.request(media_type),
        settings_digest=task.content.settings_digest,
        task_id=str(task.task_id),
        created_at=datetime.fromtimestamp(task.created_at or 0.0, tz=UTC),
    )


@dataclass(frozen=True)
class StatusSurvey:
    """Outcome of a walk through the platform's list.

    Args:
        statuses: The status of each task that was found, by id.
        unlisted: Tasks that are not listed any more, where they would have been.
        complete: Whether every task was looked for.
        problem: What ended the walk early, if the platform did.
    """

    statuses: Mapping[str, str]
    unlisted: frozenset[str] = frozenset()
    complete: bool = True
    problem: EmbedPipelineError | None = None

    def has_ended(self, task_id: str) -> bool:
        """Return whether a task is ready, has failed, or is not listed any more."""
        return self.statuses.get(task_id) in {"ready", "failed"} or task_id in self.unlisted


@dataclass(frozen=True, slots=True)
class Window:
    """A span of the list in which some tasks are.

    Args:
        start: Listed from here on.
        end: Listed up to here.
        task_ids: The tasks.
    """

    start: datetime
    end: datetime
    task_ids: tuple[str, ...]


@dataclass(frozen=True)
class Readiness:
    """What can be collected.

    Args:
        pending: Media files whose task has no segments yet.
        ended: Those whose results can be fetched and that no run works on, oldest task first.
        busy: How many others are in runs, or were requested.
        elsewhere: How many tasks were created on another platform, by platform.
        complete: Whether all were looked at.
        problem: Why the platform could not be asked for all.
    """

    pending: int
    ended: Sequence[PendingFile] = ()
    busy: int = 0
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True
    problem: EmbedPipelineError | None = None


def windows(created: Mapping[str, datetime], *, ahead_sec: float = 0.0) -> list[Window]:
    """Return where in the list some tasks are, oldest first: in as little of it as holds them all.

    Args:
        created: When each task was recorded, by id, by our clock.
        ahead_sec: How far the platform's clock is ahead of ours, in seconds.

    Returns:
        Spans of the platform's time. Where tasks were recorded close together they join, and overlap by a second.
    """
    shift = timedelta(seconds=ahead_sec)
    before, after = _RECORDED_LATE - min(shift, timedelta()), _SKEW + max(shift, timedelta())
    found: list[Window] = []
    start = first = previous = datetime.min.replace(tzinfo=UTC)
    task_ids: list[str] = []
    for task_id, at in sorted(created.items(), key=lambda item: item[1]):
        if task_ids and at - previous > before + after:
            found.append(_window(start, previous + after, task_ids))
            task_ids = []
        if not task_ids:
            start, first = at - before, at
        elif len(task_ids) >= _TASKS_PER_WINDOW or at - first > _LONGEST_WINDOW:
            found.append(_window(start, at, task_ids))
            start, first, task_ids = at, at, []
        task_ids.append(task_id)
        previous = at
    if task_ids:
        found.append(_window(start, previous + after, task_ids))
    return found


def survey(client: EmbedClient, created: Mapping[str, datetime], *, budget_sec: float | None = None) -> StatusSurvey:
    """Ask the platform's list for the status of some tasks, the oldest first.

    So the results that expire first are seen first, and what was listed since for others is not walked through.

    Args:
        client: The platform.
        created: When each task was created, by id.
        budget_sec: Seconds after which the walk ends where it is.

    Returns:
        What was found, also where the platform ended the walk with an error.
    """
    deadline = None if budget_sec is None else time.monotonic() + budget_sec
    statuses: dict[str, str] = {}
    looked_for, joined = set[str](), set[str]()
    ahead_sec = client.clock_offset_sec
    todo = deque(windows(created, ahead_sec=ahead_sec or 0.0))
    problem = None
    while todo:
        try:
            missing = (joined | set(todo[0].task_ids)) - statuses.keys()
            through = _walk(client, todo[0], missing, created, statuses, deadline)
        except EmbedPipelineError as error:
            problem = error
            break
        offset = client.clock_offset_sec
        if ahead_sec is None and offset is not None and abs(offset) > _SKEW.total_seconds() / 2:
            # By our clock the tasks were looked for at another time than the platform has for them.
            todo = deque(windows(created, ahead_sec=offset))
            joined.clear()
        elif through:
            window = todo.popleft()
            joined.update(window.task_ids)
            # Its last tasks may be listed in the span that follows, and are looked for there as well.
            if not todo or todo[0].start > window.end:
                looked_for |= joined
                joined.clear()
        else:
            break
        ahead_sec = offset
    return StatusSurvey(statuses, frozenset(looked_for - statuses.keys()), complete=not todo, problem=problem)


def look_for_ended(pipeline: PipelineContext, *, budget_sec: float | None = None) -> Readiness:
    """Find the tasks that have ended, and record that in the ledger, so that the platform is asked once for each.

    Args:
        pipeline: The pipeline, with a client.
        budget_sec: Seconds that the platform may be asked for.

    Raises:
        LedgerError: The ledger cannot be reached.
    """
    pending = pipeline.ledger.pending(pipeline.name)
    free = [file for file in pending if file.is_free]
    ours = [file for file in free if file.platform == pipeline.platform]
    # Another platform does not know a task of the one that was used before, which is no sign that it ended.
    elsewhere = Counter(file.platform for file in free if file.platform != pipeline.platform)
    processing = {file.task_id: file for file in ours if file.state is TaskState.PROCESSING}
    found = StatusSurvey({})
    if processing:
        created = {task_id: datetime.fromtimestamp(file.created_at, tz=UTC) for task_id, file in processing.items()}
        found = survey(pipeline.connected(), created, budget_sec=budget_sec)
        pipeline.ledger.tasks.mark_ready([file.row_id for file in processing.values() if found.has_ended(file.task_id)])
    ended = [file for file in ours if file.state is not TaskState.PROCESSING or found.has_ended(file.task_id)]
    return Readiness(len(pending), ended, len(pending) - len(free), elsewhere, found.complete, found.problem)


def _walk(
    client: EmbedClient,
    window: Window,
    missing: set[str],
    created: Mapping[str, datetime],
    statuses: dict[str, str],
    deadline: float | None,
) -> bool:
    """Note what is listed in a window, newest first, until the missing are found; return whether it got through."""
    if not missing:
        return True
    for task in client.v_2.tasks.list(started_at=window.start, ended_at=window.end, page_limit=50):
        if task.id is not None and task.id in created:
            statuses[task.id] = task.status or "processing"
            missing.discard(task.id)
            if not missing:
                return True
        if deadline is not None and time.monotonic() > deadline:
            return False
    return True


def _window(start: datetime, end: datetime, task_ids: Sequence[str]) -> Window:
    # Rounded outwards: a task is listed by the fraction of its second as well.
    return Window(_whole_seconds(start), _whole_seconds(end) + timedelta(seconds=1), tuple(task_ids))


def _whole_seconds(at: datetime) -> datetime:
    """Return the time without its fraction, as the list filters take it."""
    return at.astimezone(UTC).replace(microsecond=0)
