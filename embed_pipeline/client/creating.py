"""Creating a task without ever paying for two.

A 4xx, 429 among them, created nothing. A connection that never came about sent nothing. After anything else that is
no answer (a timeout, a dropped connection, a 5xx, a body that is cut off) a task may exist: then the list is looked
through for one that was created since the first attempt from this source with these settings, and only if it is not
there, several times over, is the request sent again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from embed_pipeline.client.errors import (
    AmbiguousCreateError,
    ApiError,
    ConnectionFailedError,
    UnreadableResponseError,
)
from embed_pipeline.client.exchange import (
    Flow,
    Outgoing,
    Reply,
    RequestOptions,
    Session,
    admit,
    back_off,
    path_segment,
    pause,
    read,
    transmit,
    with_options,
)
from embed_pipeline.client.limits import EMBED
from embed_pipeline.client.listing import MAX_PAGE_LIMIT, parse_page, walk_tasks
from embed_pipeline.client.matching import Marker, compare_request, created_since
from embed_pipeline.client.requests import AudioInputRequest, CreateTaskRequest, VideoInputRequest
from embed_pipeline.client.responses import MediaEmbeddingTask, ResponseModel, TasksCreateResponse
from embed_pipeline.client.retries import RetryPolicy

# The list is asked from a little earlier on, since its clock is not ours; what it gives is then compared by its clock.
_CLOCK_MARGIN = timedelta(minutes=5)
_JSON = {"content-type": "application/json"}
# The Date header has whole seconds, and the answer takes time on its way.
_DATE_TOLERANCE = timedelta(seconds=2)


def create_task(
    session: Session,
    request: CreateTaskRequest,
    *,
    media_sec: float | None = None,
    options: RequestOptions | None = None,
) -> Flow[TasksCreateResponse]:
    """Creates a task, or adopts the one that an attempt with an unknown outcome made.

    Args:
        session: The client's shared state.
        request: What to create; already checked.
        media_sec: Length of the media in seconds, for the limits; the window's length if it is not given.
        options: For this call only.

    Raises:
        ApiError: The platform refused, or could not be reached; nothing was created.
        RetryLaterError: A limit is spent for longer than the policy waits; nothing was created.
        AmbiguousCreateError: A task may exist, and the list cannot tell.
    """
    outgoing = Outgoing(method="POST", path="embed-v2/tasks", content=request.to_body(), headers=_JSON)
    outgoing = with_options(outgoing, options)
    policy = session.policy(options)
    seconds = _billed_seconds(request, media_sec)
    first_attempt: datetime | None = None
    attempt = 0
    while True:
        attempt += 1
        yield from admit(session, policy, EMBED, seconds)
        if options and (before_attempt := options.get("before_attempt")):
            before_attempt()
        first_attempt = first_attempt or session.now()
        try:
            reply = yield from transmit(session, outgoing)
        except ConnectionFailedError as failed:
            if not failed.sent:
                session.budget.refund_media(session.monotonic(), seconds)
                yield from back_off(session, policy, attempt, failed, again=policy.retry_connection_errors)
                continue
            doubt: ApiError = failed
        else:
            session.budget.learn(EMBED, reply.headers, session.monotonic())
            if reply.succeeded:
                created = _read_created(reply)
                if created is not None:
                    session.claim(created.id)
                    session.count(created=1)
                    return created
                doubt = UnreadableResponseError(
                    f"The platform said {reply.status_code} to {outgoing.doing}, and its answer cannot be read.",
                    status_code=reply.status_code,
                )
            else:
                error = session.error(reply, outgoing.doing)
                if reply.status_code < 500:
                    yield from _refused(session, policy, attempt, error, seconds)
                    continue
                doubt = error
        adopted = yield from _settle(session, policy, request, first_attempt, doubt)
        if adopted is not None:
            session.count(adopted=1)
            return adopted
        if isinstance(doubt, UnreadableResponseError):
            raise _ambiguous(doubt, "The platform said that it made a task, but the list does not show it yet")
        session.budget.refund_media(session.monotonic(), seconds)
        yield from back_off(session, policy, attempt, doubt, again=True)


def _refused(session: Session, policy: RetryPolicy, attempt: int, error: ApiError, seconds: float) -> Flow[None]:
    session.budget.refund_media(session.monotonic(), seconds)
    if error.status_code == 429:
        wait = error.retry_after_sec if error.retry_after_sec is not None else policy.delay(attempt)
        session.budget.hold(EMBED, session.monotonic() + wait)
    yield from back_off(session, policy, attempt, error, again=error.status_code in policy.create_statuses)


def _billed_seconds(request: CreateTaskRequest, media_sec: float | None) -> float:
    media = request.media
    if not isinstance(media, AudioInputRequest | VideoInputRequest):
        return 0.0
    start = media.start_sec or 0.0
    end = media.end_sec if media.end_sec is not None else media_sec
    if end is None:
        return 0.0
    return max(0.0, (min(end, media_sec) if media_sec is not None else end) - start)


def _read_created(reply: Reply) -> TasksCreateResponse | None:
    try:
        body = json.loads(reply.content)
        if isinstance(body, Mapping) and (body.get("_id") or body.get("id")):
            return TasksCreateResponse.model_validate(body)
    except (ValueError, ValidationError):
        pass
    # The header names the task as well; whatever became of the body, the task exists and is ours.
    head, _, task_id = reply.headers.get("location", "").partition("?")[0].rstrip("/").rpartition("/")
    return TasksCreateResponse.model_validate({"_id": task_id}) if task_id and head.endswith("embed-v2/tasks") else None


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look into the list found: a task to adopt, or whether some task there might be ours."""

    found: MediaEmbeddingTask | None
    undecided: bool
    several: bool


def _settle(
    session: Session, policy: RetryPolicy, request: CreateTaskRequest, since: datetime, doubt: ApiError
) -> Flow[TasksCreateResponse | None]:
    marker = yield from _marker(session, request, doubt)
    undecided = False
    for delay in policy.settle_delays_sec:
        yield from pause(session, delay)
        try:
            look = yield from _look(session, request, marker, since)
        except ApiError as unreachable:
            raise _ambiguous(doubt, f"The list could not be asked either ({unreachable.message})") from unreachable
        if look.several:
            raise _ambiguous(doubt, f"The list has several new tasks from {marker.describe()}")
        if look.found is not None and look.found.id is not None:
            return TasksCreateResponse.model_validate(
                {"_id": look.found.id, "status": look.found.status or "processing", "adopted": True}
            )
        undecided = look.undecided
    if undecided:
        raise _ambiguous(doubt, "The list has a new task that does not name its source")
    return None


def _marker(session: Session, request: CreateTaskRequest, doubt: ApiError) -> Flow[Marker]:
    source = request.source
    marker = Marker.of(source)
    if marker is not None:
        return marker
    if source.asset_id is not None:
        try:
            asset = yield from read(
                session,
                Outgoing(method="GET", path=f"assets/{path_segment(source.asset_id)}"),
                lambda reply: parse_page(_AssetName, reply),
            )
        except ApiError as error:
            raise _ambiguous(doubt, f"The asset's file name could not be learnt ({error.message})") from error
        if asset.filename:
            return Marker(filename=asset.filename)
    raise _ambiguous(doubt, "The list does not show from which base64 or nameless asset a task was made")


class _AssetName(ResponseModel):
    filename: str | None = None


def _look(session: Session, request: CreateTaskRequest, marker: Marker, since: datetime) -> Flow[_Look]:
    offset = session.clock_offset_sec
    walk = walk_tasks(session, started_at=_by_server(since, offset) - _CLOCK_MARGIN, page_limit=MAX_PAGE_LIMIT)
    goes_on, same, undecided = True, [], False
    while goes_on:
        items, goes_on, _ = yield from walk.next_page()
        learnt = session.clock_offset_sec
        if offset is None and learnt is not None and abs(learnt) > _CLOCK_MARGIN.total_seconds() / 2:
            # The two clocks are so far apart that the filter may have hidden our task: look again by the platform's.
            return (yield from _look(session, request, marker, since))
        earliest = since - _CLOCK_MARGIN if learnt is None else _by_server(since, learnt) - _DATE_TOLERANCE
        for task in items:
            if task.id is None or session.is_claimed(task.id) or not created_since(task, earliest):
                continue
            verdict = compare_request(task, request, marker)
            if verdict == "same":
                same.append(task)
            undecided = undecided or verdict == "unknown"
    if marker.filename is not None and len(same) > 1:
        # A name may be shared by different contents, and a wrong adoption would give a file another file's vectors.
        return _Look(None, undecided, several=True)
    for task in reversed(same):  # the list is newest first; ours is the oldest that nobody claims
        if task.id is not None and session.claim(task.id):
            return _Look(task, undecided, several=False)
    return _Look(None, undecided, several=False)


def _by_server(moment: datetime, offset_sec: float | None) -> datetime:
    return moment + timedelta(seconds=offset_sec or 0.0)


def _ambiguous(doubt: ApiError, why: str) -> AmbiguousCreateError:
    return AmbiguousCreateError(
        f"It is not known whether a task was created ({doubt.message.rstrip('.')}). {why}. It was not sent again, "
        "since that might pay twice: look with tasks.find, and create it again only if it is not there.",
        status_code=doubt.status_code,
        code=doubt.code,
        request_id=doubt.request_id,
        headers=doubt.headers,
        body=doubt.body,
    )
