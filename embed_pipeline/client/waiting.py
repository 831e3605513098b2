"""Waiting for tasks, for scripts and notebooks; a pipeline asks now and then instead."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from embed_pipeline.client.errors import (
    ApiError,
    ConnectionFailedError,
    InternalServerError,
    RetryLaterError,
    TaskFailedError,
    TooManyRequestsError,
    UnreadableResponseError,
    WaitTimeoutError,
)
from embed_pipeline.client.exchange import Flow, Session, pause
from embed_pipeline.client.listing import MAX_PAGE_LIMIT, retrieve_task, walk_tasks
from embed_pipeline.client.responses import EmbeddingTaskResponse

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_WAIT_SEC = 3600.0
_FINISHED = ("ready", "failed")
_SHOWN_IDS = 5


@dataclass(frozen=True, kw_only=True)
class PollPolicy:
    """How often is asked whether something is finished.

    Attributes:
        initial_sec: The first interval, seconds.
        multiplier: How much longer each interval is than the one before.
        max_sec: The longest interval, seconds.
    """

    initial_sec: float = 2.0
    multiplier: float = 1.5
    max_sec: float = 60.0

    def __post_init__(self) -> None:
        if not (0 < self.initial_sec <= self.max_sec and self.multiplier >= 1):
            raise ValueError("a poll policy needs 0 < initial_sec <= max_sec and multiplier >= 1")

    def interval(self, round_number: int) -> float:
        """The interval after a round, counted from 1, in seconds."""
        try:
            return min(self.max_sec, self.initial_sec * self.multiplier ** (round_number - 1))
        except OverflowError:
            return self.max_sec


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a wait has come; what ``on_progress`` is called with after every round.

    Attributes:
        total: Tasks that are waited for.
        ready: Of those, ready.
        failed: Of those, failed.
        elapsed_sec: Since the wait began, seconds.
    """

    total: int
    ready: int
    failed: int
    elapsed_sec: float

    @property
    def done(self) -> int:
        """Ready and failed ones."""
        return self.ready + self.failed


ProgressCallback = Callable[[Progress], None]


class TaskWait:
    """A wait for one or many tasks; gives the finished ones as they come.

    One walk through the list serves many tasks. Each finished task is retrieved once, when it is asked for, so only
    one result is in memory at a time. A passing failure of the platform does not end the wait; the deadline does.

    Args:
        session: The client's shared state.
        task_ids: What to wait for; each id once.
        timeout_sec: The deadline, seconds from now.
        poll: How often to ask.
        on_progress: Called after every round.
    """

    def __init__(
        self,
        session: Session,
        task_ids: Iterable[str],
        *,
        timeout_sec: float,
        poll: PollPolicy | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self._session = session
        self._pending = dict.fromkeys(task_ids)
        self._total = len(self._pending)
        self._poll = poll or PollPolicy()
        self._on_progress = on_progress
        self._began = session.monotonic()
        self._deadline = self._began + timeout_sec
        self._timeout_sec = timeout_sec
        self._finished: deque[str] = deque()
        self._since: datetime | None = None
        self._round = 0
        self._counts = {"ready": 0, "failed": 0}

    def next_finished(self) -> Flow[EmbeddingTaskResponse | None]:
        """The next finished task, or None when all have been given.

        Raises:
            WaitTimeoutError: The deadline passed.
            ApiError: The platform refused for good, for instance because a task does not exist.
        """
        while self._pending or self._finished:
            due = self._poll.interval(self._round) if self._round else 0.0
            task: EmbeddingTaskResponse | None = None
            try:
                task = yield from self._step()
            except (ConnectionFailedError, InternalServerError, TooManyRequestsError, UnreadableResponseError) as error:
                if isinstance(error, UnreadableResponseError) and not error.passing:
                    raise
                due = self._due_after(error, due)
                self._round += 1
                yield from self._rest(due, error)
                continue
            if task is not None:
                return task
            if not self._finished:
                yield from self._rest(self._poll.interval(self._round), None)
        return None

    def _step(self) -> Flow[EmbeddingTaskResponse | None]:
        if self._finished:
            return (yield from self._retrieve(self._finished[0]))
        self._round += 1
        if len(self._pending) == 1:
            return (yield from self._retrieve(next(iter(self._pending))))
        unseen = yield from self._look()
        for task_id in unseen:  # not in the list: only the platform can say whether it expired or never was
            task = yield from self._retrieve(task_id)
            if task is not None:
                return task
        self._report()
        return None

    def _look(self) -> Flow[list[str]]:
        walk = walk_tasks(self._session, started_at=self._since, page_limit=MAX_PAGE_LIMIT)
        unseen, oldest = set(self._pending), self._since
        goes_on = True
        while goes_on and unseen:
            items, goes_on, _ = yield from walk.next_page()
            for item in items:
                if item.id not in unseen:
                    continue
                unseen.discard(item.id)
                if item.created_at is not None and (oldest is None or item.created_at < oldest):
                    oldest = item.created_at
                if item.status in _FINISHED:
                    self._finished.append(item.id)
        if not unseen:
            self._since = oldest  # from now on no older page need be read
        return [task_id for task_id in self._pending if task_id in unseen]

    def _retrieve(self, task_id: str) -> Flow[EmbeddingTaskResponse | None]:
        task = yield from retrieve_task(self._session, task_id)
        if self._finished and self._finished[0] == task_id:
            self._finished.popleft()
        if not task.finished:
            return None
        self._pending.pop(task_id, None)
        with contextlib.suppress(ValueError):
            self._finished.remove(task_id)
        self._counts[task.status] += 1
        self._report()
        return task

    def _report(self) -> None:
        if self._on_progress is not None:
            elapsed = self._session.monotonic() - self._began
            self._on_progress(Progress(total=self._total, elapsed_sec=elapsed, **self._counts))

    def _due_after(self, error: ApiError, due: float) -> float:
        if isinstance(error, RetryLaterError | TooManyRequestsError) and error.retry_after_sec is not None:
            return max(due, error.retry_after_sec)
        return max(due, self._poll.interval(max(1, self._round)))

    def _rest(self, seconds: float, error: ApiError | None) -> Flow[None]:
        left = self._deadline - self._session.monotonic()
        if left <= 0 or (error is not None and seconds > left):
            shown = ", ".join(list(self._pending)[:_SHOWN_IDS]) + ("…" if len(self._pending) > _SHOWN_IDS else "")
            why = f" The last answer was: {error.message}" if error is not None else ""
            raise WaitTimeoutError(
                f"After {self._timeout_sec:.0f} s {len(self._pending)} of {self._total} tasks are still being "
                f"processed ({shown}); they go on, and you can wait for them again.{why}"
            ) from error
        yield from pause(self._session, min(seconds, left))


def succeeded(task: EmbeddingTaskResponse) -> EmbeddingTaskResponse:
    """The task, if it is ready.

    Raises:
        TaskFailedError: It failed; the message holds the platform's words.
    """
    if task.status == "failed":
        reason = task.error.message if task.error is not None else ""
        said = f"the platform said: {reason}" if reason else "the platform gave no reason"
        raise TaskFailedError(f"Task {task.id} failed; {said}", task_id=task.id, reason=reason)
    return task


@contextlib.contextmanager
def progress_bar(description: str = "Embedding", console: Console | None = None) -> Iterator[ProgressCallback]:
    """A progress bar for the terminal and for notebooks; give what it yields as ``on_progress``.

    Args:
        description: What stands before the bar.
        console: Where it is drawn; the terminal if left out.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console) as bar:
        row = bar.add_task(description, total=None)

        def show(progress: Progress) -> None:
            failed = f" ({progress.failed} failed)" if progress.failed else ""
            bar.update(row, total=progress.total, completed=progress.done, description=description + failed)

        yield show
