"""``client.v_2.tasks``: create, list, retrieve, find and wait, with the official SDK's names."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from embed_pipeline.client.create import create_task
from embed_pipeline.client.drivers import ThreadDriver
from embed_pipeline.client.exchange import RequestOptions, Session
from embed_pipeline.client.listing import retrieve_task, walk_tasks
from embed_pipeline.client.pager import SyncPager
from embed_pipeline.client.requests import (
    AudioInputRequest,
    CreateTaskRequest,
    DocumentInputRequest,
    ImageInputRequest,
    InputType,
    MediaSource,
    VideoInputRequest,
)
from embed_pipeline.client.responses import EmbeddingTaskResponse, MediaEmbeddingTask, TasksCreateResponse
from embed_pipeline.client.rules import build_create_request
from embed_pipeline.client.search import CreateSearch, CreateSearchResult, KnownTasks, find_created, find_tasks
from embed_pipeline.client.waiting import DEFAULT_WAIT_SEC, PollPolicy, ProgressCallback, TaskWait, succeeded


class _Omitted:
    """The default of a keyword that is left out, which on the wire differs from None."""

    def __repr__(self) -> str:
        return "OMIT"


OMIT: Final[Any] = _Omitted()


def create_request(**fields: Any) -> CreateTaskRequest:
    """The request that the keywords of ``create`` describe; those left out stay out."""
    return build_create_request(**{name: value for name, value in fields.items() if value is not OMIT})


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
        started_at: datetime | str | None = None,
        ended_at: datetime | str | None = None,
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
        started_at: datetime | str | None = None,
        ended_at: datetime | str | None = None,
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
