"""``client.v_2.tasks``: create, list, retrieve, find and wait, with the official SDK's names."""

from __future__ import annotations

import builtins
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

from embed_pipeline.client.create import create_task
from embed_pipeline.client.errors import (
    ApiError,
    BadRequestError,
    ConnectionFailedError,
    InternalServerError,
    InvalidRequestError,
    NotFoundError,
    RetryLaterError,
    TaskFailedError,
    TooManyRequestsError,
    UnreadableResponseError,
    WaitTimeoutError,
)
from embed_pipeline.client.exchange import Flow, RequestOptions, Session, pause
from embed_pipeline.client.limits import PollPolicy
from embed_pipeline.client.listing import MAX_PAGE_LIMIT, AsyncPager, SyncPager, as_utc, retrieve_task, walk_tasks
from embed_pipeline.client.requests import (
    AudioInputRequest,
    CreateTaskRequest,
    DocumentInputRequest,
    ImageInputRequest,
    InputType,
    MediaSource,
    VideoInputRequest,
    build_create_request,
)
from embed_pipeline.client.responses import EmbeddingTaskResponse, MediaEmbeddingTask, TasksCreateResponse
from embed_pipeline.client.search import CreateSearch, CreateSearchResult, KnownTasks, find_created, find_tasks
from embed_pipeline.client.transport import AsyncioDriver, ThreadDriver

if TYPE_CHECKING:
    from rich.console import Console


class _Omitted:
    """The default of a keyword that is left out, which on the wire differs from None."""

    def __repr__(self) -> str:
        return "OMIT"


OMIT: Final[Any] = _Omitted()


def create_request(**fields: Any) -> CreateTaskRequest:
    """The request that the keywords of ``create`` describe; those left out stay out."""
    return build_create_request(**{name: value for name, value in fields.items() if value is not OMIT})


DEFAULT_WAIT_SEC = 3600.0
_FINISHED = ("ready", "failed")
_SHOWN_IDS = 5


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
    """Wait for one or many tasks; gives the finished ones as they come.

    One walk through the list serves many tasks. Each finished task is retrieved once, when it is asked for, so only
    one result is in memory at a time. A retryable failure of the platform does not end the wait; the deadline does.
    A task that cannot be given (there is none of that id, or its result cannot be read) does not hold up the others:
    it is reported at the end.

    Args:
        session: The client's shared state.
        task_ids: What to wait for; each id once.
        timeout_sec: The deadline, seconds from now.
        poll: How often to ask.
        on_progress: Called after every round.

    Raises:
        InvalidRequestError: A text is given where a list is meant.
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
        if isinstance(task_ids, str | bytes):
            raise InvalidRequestError(f"task_ids is the text {task_ids!r}: give a list of ids, or use wait for one.")
        self._session = session
        self._pending = dict.fromkeys(task_ids)
        self._total = len(self._pending)
        self._poll = poll or PollPolicy()
        self._on_progress = on_progress
        self._began = session.monotonic()
        self._deadline = self._began + timeout_sec
        self._timeout_sec = timeout_sec
        self._finished: deque[str] = deque()
        self._lost: dict[str, ApiError] = {}
        self._since: datetime | None = None
        self._round = 0
        self._counts = {"ready": 0, "failed": 0}

    def next_finished(self) -> Flow[EmbeddingTaskResponse | None]:
        """Return the next finished task, or None when all have been given.

        Raises:
            WaitTimeoutError: The deadline passed.
            ApiError: The platform refused for good; or, once all others have been given, a task could not be.
        """
        while self._pending or self._finished:
            task: EmbeddingTaskResponse | None = None
            try:
                task = yield from self._step()
            except (ConnectionFailedError, InternalServerError, TooManyRequestsError, UnreadableResponseError) as error:
                self._round += 1
                yield from self._rest(self._interval_after(error), error)
                continue
            if task is not None:
                return task
            if not self._finished and self._pending:
                yield from self._rest(self._poll.interval(self._round), None)
        if self._lost:
            raise self._lost_error()
        return None

    def _step(self) -> Flow[EmbeddingTaskResponse | None]:
        if self._finished:
            return (yield from self._retrieve(self._finished[0]))
        self._round += 1
        if len(self._pending) == 1:
            task = yield from self._retrieve(next(iter(self._pending)))
            if task is not None:
                return task
        else:
            unseen = yield from self._look()
            for task_id in unseen:  # not in the list: only the platform can say whether it expired or never was
                task = yield from self._retrieve(task_id)
                if task is not None:
                    return task
        self._report()
        return None

    def _options(self) -> RequestOptions | None:
        """Bound a request by the deadline of the wait, where that is nearer than the request's own."""
        left, own = self._deadline - self._session.monotonic(), self._session.deadline_sec
        nearer = 0 < left < (math.inf if own is None else own)
        return {"timeout_in_seconds": left, "max_retries": 0} if nearer else None

    def _look(self) -> Flow[list[str]]:
        walk = walk_tasks(self._session, started_at=self._since, page_limit=MAX_PAGE_LIMIT, options=self._options())
        unseen, oldest = set(self._pending), self._since
        goes_on = True
        while goes_on and unseen:
            items, goes_on, _ = yield from walk.next_page()
            for item in items:
                if item.id not in unseen:
                    continue
                unseen.discard(item.id)
                if item.created_at is not None:
                    oldest = min(as_utc(item.created_at), oldest or as_utc(item.created_at))
                if item.status in _FINISHED:
                    self._finished.append(item.id)
        if not unseen:
            self._since = oldest  # from now on no older page need be read
        return [task_id for task_id in self._pending if task_id in unseen]

    def _retrieve(self, task_id: str) -> Flow[EmbeddingTaskResponse | None]:
        try:
            task = yield from retrieve_task(self._session, task_id, self._options())
        except (NotFoundError, BadRequestError, UnreadableResponseError) as error:
            if isinstance(error, UnreadableResponseError) and error.retryable:
                raise
            self._lost[task_id] = error
            self._forget(task_id)
            return None
        if self._finished and self._finished[0] == task_id:
            self._finished.popleft()
        if not task.finished:
            return None
        self._forget(task_id)
        self._counts[task.status] += 1
        self._report()
        return task

    def _forget(self, task_id: str) -> None:
        self._pending.pop(task_id, None)
        with contextlib.suppress(ValueError):
            self._finished.remove(task_id)

    def _lost_error(self) -> ApiError:
        errors = list(self._lost.values())
        if len(errors) == 1:
            return errors[0]
        kind = type(errors[0]) if len({type(error) for error in errors}) == 1 else ApiError
        reasons = "; ".join(f"{task_id}: {error.message.rstrip('.')}" for task_id, error in self._lost.items())
        return kind(
            f"{len(errors)} of {self._total} tasks could not be given ({reasons}).", status_code=errors[0].status_code
        )

    def _report(self) -> None:
        if self._on_progress is not None:
            elapsed = self._session.monotonic() - self._began
            self._on_progress(Progress(total=self._total, elapsed_sec=elapsed, **self._counts))

    def _interval_after(self, error: ApiError) -> float:
        interval = self._poll.interval(max(1, self._round - 1))
        if isinstance(error, RetryLaterError | TooManyRequestsError) and error.retry_after_sec is not None:
            return max(interval, error.retry_after_sec)
        return interval

    def _rest(self, seconds: float, error: ApiError | None) -> Flow[None]:
        left = self._deadline - self._session.monotonic()
        if left <= 0 or (error is not None and seconds > left):
            shown = ", ".join(list(self._pending)[:_SHOWN_IDS]) + ("…" if len(self._pending) > _SHOWN_IDS else "")
            why = f" The last error was: {error.message}" if error is not None else ""
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


class TasksClient:
    """Embedding tasks. Safe to use from many threads."""

    def __init__(self, session: Session, driver: ThreadDriver) -> None:
        self._session = session
        self._driver = driver

    def create(
        self,
        *,
        input_type: InputType,
        model_name: str,
        embedding_uncertainty: bool | None = OMIT,
        embedding_dimension: int | None = OMIT,
        audio: AudioInputRequest | None = OMIT,
        video: VideoInputRequest | None = OMIT,
        document: DocumentInputRequest | None = OMIT,
        image: ImageInputRequest | None = OMIT,
        media_duration_sec: float | None = None,
        request_options: RequestOptions | None = None,
    ) -> TasksCreateResponse:
        """Creates an embedding task. This costs money; it never makes two tasks.

        Args:
            input_type: ``audio``, ``video``, ``document`` or ``image``; the object of that name is needed.
            model_name: ``marengo3.0`` or ``marengo3.5``.
            embedding_uncertainty: Marengo 3.5: also an uncertainty per dimension.
            embedding_dimension: Marengo 3.5: 128, 256 or 512 (default).
            audio: What to embed.
            video: What to embed.
            document: What to embed.
            image: What to embed.
            media_duration_sec: Length of the media, seconds, for limits on media minutes; not sent.
            request_options: For this call only.

        Returns:
            The task. ``.adopted`` is True if an attempt with an unknown outcome had made it.

        Raises:
            InvalidRequestError: The platform would refuse it; nothing was sent.
            RetryLaterError: A limit is spent for longer than the retry policy waits.
            AmbiguousCreateError: A task may exist and cannot be told from others in the list.
            ApiError: The platform refused, or could not be reached.
        """
        request = create_request(
            input_type=input_type,
            model_name=model_name,
            embedding_uncertainty=embedding_uncertainty,
            embedding_dimension=embedding_dimension,
            audio=audio,
            video=video,
            document=document,
            image=image,
        )
        return self._driver.run(
            create_task(self._session, request, media_sec=media_duration_sec, options=request_options)
        )

    def list(
        self,
        *,
        started_at: date | str | None = None,
        ended_at: date | str | None = None,
        status: str | None = None,
        page: int | None = None,
        page_limit: int | None = None,
        request_options: RequestOptions | None = None,
    ) -> SyncPager[MediaEmbeddingTask]:
        """Tasks of the last seven days, newest first; without vectors and reasons of failures.

        Args:
            started_at: Created after this; a datetime, or ``YYYY-MM-DDTHH:mm:ssZ``.
            ended_at: Created before this.
            status: ``processing``, ``ready`` or ``failed``.
            page: First page to give, from 1.
            page_limit: Items per page, 1 to 50; the platform gives 10 if it is left out.
            request_options: For each page's request.

        Returns:
            A pager: iterate over it for every task once.

        Raises:
            InvalidRequestError: A page number or limit that the platform refuses.
            ApiError: The platform refused, or could not be reached.
        """
        walk = walk_tasks(
            self._session,
            started_at=started_at,
            ended_at=ended_at,
            status=status,
            page=page,
            page_limit=page_limit,
            options=request_options,
        )
        return SyncPager(self._driver, walk)

    def retrieve(self, task_id: str, *, request_options: RequestOptions | None = None) -> EmbeddingTaskResponse:
        """A task with its result, metadata, usage and error.

        Raises:
            NotFoundError: No such task, or older than seven days.
            UnreadableResponseError: A vector is missing, not finite, or differs in length from the others.
            ApiError: The platform refused, or could not be reached.
        """
        return self._driver.run(retrieve_task(self._session, task_id, request_options))

    def find(
        self,
        source: MediaSource | str,
        *,
        started_at: date | str | None = None,
        ended_at: date | str | None = None,
        status: str | None = None,
        model_name: str | None = None,
        request_options: RequestOptions | None = None,
    ) -> builtins.list[MediaEmbeddingTask]:
        """Tasks that were made from a source, newest first.

        Args:
            source: A URL (compared without signatures), the file name of an uploaded asset, or a ``MediaSource`` with
                a URL.
            started_at: Created after this.
            ended_at: Created before this.
            status: ``processing``, ``ready`` or ``failed``.
            model_name: Only tasks of this model.
            request_options: For each page's request.

        Raises:
            InvalidRequestError: A base64 string or an asset's id, which the list does not show.
            ApiError: The platform refused, or could not be reached.
        """
        return self._driver.run(
            find_tasks(
                self._session,
                source,
                started_at=started_at,
                ended_at=ended_at,
                status=status,
                model_name=model_name,
                options=request_options,
            )
        )

    def find_created(
        self,
        searches: Sequence[CreateSearch],
        *,
        known: KnownTasks | None = None,
        request_options: RequestOptions | None = None,
    ) -> builtins.list[CreateSearchResult]:
        """Search the list, once, for tasks that creates with an unknown outcome may have made.

        For a caller that recovers after a crash, a timeout or an `AmbiguousCreateError`; `create` uses the same search.
        Each listed task is given to at most one search: of several that it fits, to the one with the latest `since` not
        after its creation. If several tasks of one URL fit a search, the oldest is given. A failed task is given too.

        Args:
            searches: What the tasks would look like.
            known: Called with ids from each page; returns those that belong to somebody already, which are never given.
                By default, the tasks that clients of this process have already answered with.
            request_options: For each page's request.

        Returns:
            One result for each search, in their order: the task, or why it cannot be told, or neither if there is none.

        Raises:
            ApiError: The list could not be read to its end.
        """
        return self._driver.run(find_created(self._session, searches, known=known, options=request_options))

    def as_completed(
        self,
        task_ids: Iterable[str],
        *,
        timeout_sec: float = DEFAULT_WAIT_SEC,
        poll: PollPolicy | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Iterator[EmbeddingTaskResponse]:
        """Gives each task once it is ready or failed, with its result.

        One walk through the list serves all tasks; each result is retrieved when it is asked for.

        Args:
            task_ids: What to wait for.
            timeout_sec: The deadline, seconds.
            poll: How often to ask; by default after 2 s, then in intervals that grow to a minute.
            on_progress: Called after every round; see ``progress_bar``.

        Raises:
            WaitTimeoutError: The deadline passed.
            ApiError: The platform refused for good.
        """
        wait = TaskWait(self._session, task_ids, timeout_sec=timeout_sec, poll=poll, on_progress=on_progress)
        while (task := self._driver.run(wait.next_finished())) is not None:
            yield task

    def wait(
        self,
        task_id: str,
        *,
        timeout_sec: float = DEFAULT_WAIT_SEC,
        poll: PollPolicy | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> EmbeddingTaskResponse:
        """The task with its result, once it is ready.

        Raises:
            TaskFailedError: It failed; the message holds the platform's words.
            WaitTimeoutError: The deadline passed.
            ApiError: The platform refused for good.
        """
        wait = self.as_completed([task_id], timeout_sec=timeout_sec, poll=poll, on_progress=on_progress)
        return succeeded(next(wait))


class AsyncTasksClient:
    """Embedding tasks for asyncio; arguments, results and errors are those of :class:`TasksClient`."""

    def __init__(self, session: Session, driver: AsyncioDriver) -> None:
        self._session = session
        self._driver = driver

    async def create(
        self,
        *,
        input_type: InputType,
        model_name: str,
        embedding_uncertainty: bool | None = OMIT,
        embedding_dimension: int | None = OMIT,
        audio: AudioInputRequest | None = OMIT,
        video: VideoInputRequest | None = OMIT,
        document: DocumentInputRequest | None = OMIT,
        image: ImageInputRequest | None = OMIT,
        media_duration_sec: float | None = None,
        request_options: RequestOptions | None = None,
    ) -> TasksCreateResponse:
        """Creates an embedding task. This costs money; it never makes two tasks."""
        request = create_request(
            input_type=input_type,
            model_name=model_name,
            embedding_uncertainty=embedding_uncertainty,
            embedding_dimension=embedding_dimension,
            audio=audio,
            video=video,
            document=document,
            image=image,
        )
        return await self._driver.run(
            create_task(self._session, request, media_sec=media_duration_sec, options=request_options)
        )

    async def list(
        self,
        *,
        started_at: date | str | None = None,
        ended_at: date | str | None = None,
        status: str | None = None,
        page: int | None = None,
        page_limit: int | None = None,
        request_options: RequestOptions | None = None,
    ) -> AsyncPager[MediaEmbeddingTask]:
        """Tasks of the last seven days, newest first; without vectors and reasons of failures."""
        walk = walk_tasks(
            self._session,
            started_at=started_at,
            ended_at=ended_at,
            status=status,
            page=page,
            page_limit=page_limit,
            options=request_options,
        )
        return await AsyncPager.fetch(self._driver, walk)

    async def retrieve(self, task_id: str, *, request_options: RequestOptions | None = None) -> EmbeddingTaskResponse:
        """A task with its result, metadata, usage and error."""
        return await self._driver.run(retrieve_task(self._session, task_id, request_options))

    async def find(
        self,
        source: MediaSource | str,
        *,
        started_at: date | str | None = None,
        ended_at: date | str | None = None,
        status: str | None = None,
        model_name: str | None = None,
        request_options: RequestOptions | None = None,
    ) -> builtins.list[MediaEmbeddingTask]:
        """Tasks that were made from a source, newest first."""
        return await self._driver.run(
            find_tasks(
                self._session,
                source,
                started_at=started_at,
                ended_at=ended_at,
                status=status,
                model_name=model_name,
                options=request_options,
            )
        )

    async def find_created(
        self,
        searches: Sequence[CreateSearch],
        *,
        known: KnownTasks | None = None,
        request_options: RequestOptions | None = None,
    ) -> builtins.list[CreateSearchResult]:
        """Search the list, once, for tasks that creates with an unknown outcome may have made."""
        return await self._driver.run(find_created(self._session, searches, known=known, options=request_options))

    async def as_completed(
        self,
        task_ids: Iterable[str],
        *,
        timeout_sec: float = DEFAULT_WAIT_SEC,
        poll: PollPolicy | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> AsyncIterator[EmbeddingTaskResponse]:
        """Gives each task once it is ready or failed, with its result."""
        wait = TaskWait(self._session, task_ids, timeout_sec=timeout_sec, poll=poll, on_progress=on_progress)
        while (task := await self._driver.run(wait.next_finished())) is not None:
            yield task

    async def wait(
        self,
        task_id: str,
        *,
        timeout_sec: float = DEFAULT_WAIT_SEC,
        poll: PollPolicy | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> EmbeddingTaskResponse:
        """The task with its result, once it is ready."""
        wait = self.as_completed([task_id], timeout_sec=timeout_sec, poll=poll, on_progress=on_progress)
        return succeeded(await anext(wait))
