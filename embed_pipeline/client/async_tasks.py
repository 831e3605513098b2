"""``AsyncEmbedClient.v_2.tasks``: the same operations as in :mod:`embed_pipeline.client.tasks`, for asyncio."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

from embed_pipeline.client.create import create_task
from embed_pipeline.client.drivers import AsyncioDriver
from embed_pipeline.client.exchange import RequestOptions, Session
from embed_pipeline.client.listing import retrieve_task, walk_tasks
from embed_pipeline.client.pager import AsyncPager
from embed_pipeline.client.requests import (
    AudioInputRequest,
    DocumentInputRequest,
    ImageInputRequest,
    InputType,
    MediaSource,
    VideoInputRequest,
)
from embed_pipeline.client.responses import EmbeddingTaskResponse, MediaEmbeddingTask, TasksCreateResponse
from embed_pipeline.client.search import CreateSearch, CreateSearchResult, KnownTasks, find_created, find_tasks
from embed_pipeline.client.tasks import OMIT, create_request
from embed_pipeline.client.waiting import DEFAULT_WAIT_SEC, PollPolicy, ProgressCallback, TaskWait, succeeded


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
        started_at: datetime | str | None = None,
        ended_at: datetime | str | None = None,
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
        started_at: datetime | str | None = None,
        ended_at: datetime | str | None = None,
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
