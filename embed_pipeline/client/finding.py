"""Retrieving a task, and finding tasks by what they were made from."""

from __future__ import annotations

from datetime import datetime

from embed_pipeline.client.decoding import decode_task
from embed_pipeline.client.errors import InvalidRequestError, UnreadableResponseError
from embed_pipeline.client.exchange import Flow, Outgoing, Reply, RequestOptions, Session, path_segment, read
from embed_pipeline.client.listing import MAX_PAGE_LIMIT, walk_tasks
from embed_pipeline.client.matching import Marker, compare_source
from embed_pipeline.client.requests import MediaSource
from embed_pipeline.client.responses import EmbeddingTaskResponse, MediaEmbeddingTask


def retrieve_task(session: Session, task_id: str, options: RequestOptions | None = None) -> Flow[EmbeddingTaskResponse]:
    """One task with its result.

    Raises:
        NotFoundError: There is no such task, or its result is older than seven days.
        UnreadableResponseError: A vector is missing, not finite, or differs in length from the others.
    """

    def parse(reply: Reply) -> EmbeddingTaskResponse:
        try:
            return decode_task(reply.content)
        except UnreadableResponseError as error:
            raise UnreadableResponseError(
                f"Task {task_id}: {error.message}", passing=error.passing, status_code=reply.status_code
            ) from None

    request = Outgoing(method="GET", path=f"embed-v2/tasks/{path_segment(task_id)}")
    return (yield from read(session, request, parse, options))


def find_tasks(
    session: Session,
    source: MediaSource | str,
    *,
    started_at: datetime | str | None = None,
    ended_at: datetime | str | None = None,
    status: str | None = None,
    model_name: str | None = None,
    options: RequestOptions | None = None,
) -> Flow[list[MediaEmbeddingTask]]:
    """All listed tasks that were made from a source, newest first.

    Raises:
        InvalidRequestError: The source leaves nothing in the list by which its tasks could be known.
    """
    marker = Marker.of(source)
    if marker is None:
        raise InvalidRequestError(
            "The list does not tell from which base64 string or asset a task was made: "
            "give the URL, or the file name under which the asset was uploaded."
        )
    walk = walk_tasks(
        session,
        started_at=started_at,
        ended_at=ended_at,
        status=status,
        page_limit=MAX_PAGE_LIMIT,
        options=options,
    )
    found: list[MediaEmbeddingTask] = []
    goes_on = True
    while goes_on:
        items, goes_on, _ = yield from walk.next_page()
        found.extend(
            task for task in items if compare_source(task, marker) == "same" and model_name in (None, task.model_name)
        )
    return found
