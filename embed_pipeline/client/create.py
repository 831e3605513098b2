"""Creation of tasks without ever paying for two.

A 4xx, 429 among them, created nothing. A connection that never came about sent nothing. After anything else that is
no answer (a timeout, a dropped connection, a 5xx, a body that is cut off, a call that was cancelled) a task may exist:
then the list is searched for it, and only once it is certain that it is not there is the request sent again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

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
    UnknownCreate,
    acquire,
    back_off,
    path_segment,
    pause,
    read,
    transmit,
    with_options,
)
from embed_pipeline.client.limits import EMBED, RetryPolicy
from embed_pipeline.client.listing import parse_page
from embed_pipeline.client.requests import AudioInputRequest, CreateTaskRequest, VideoInputRequest
from embed_pipeline.client.responses import ResponseModel, TasksCreateResponse
from embed_pipeline.client.search import CreateSearch, SourceRef, find_created, source_identity

_JSON = {"content-type": "application/json"}
_LONGEST_LOOK_DELAY_SEC = 30.0


def create_task(
    session: Session,
    request: CreateTaskRequest,
    *,
    media_sec: float | None = None,
    options: RequestOptions | None = None,
) -> Flow[TasksCreateResponse]:
    """Create a task, or adopt the one that an attempt with an unknown outcome made.

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
    creation = _Creation(
        session=session,
        request=request,
        outgoing=with_options(outgoing, options),
        policy=session.policy(options),
        options=options or {},
        billed_sec=_billed_seconds(request, media_sec),
    )
    return (yield from creation.run())


@dataclass
class _Creation:
    """State of one call of `tasks.create`.

    Args:
        session: The client's shared state.
        request: What to create.
        outgoing: The request on the wire.
        policy: What is sent again.
        options: For this call only.
        billed_sec: Length of what is embedded, in seconds; 0 if it is not known.
    """

    session: Session
    request: CreateTaskRequest
    outgoing: Outgoing
    policy: RetryPolicy
    options: RequestOptions
    billed_sec: float
    # Set while it is not known whether a task was made; what is left in it at the end is kept for the next create.
    _unknown: UnknownCreate | None = None
    _first_sent_at: datetime | None = None
    _search: CreateSearch | None = field(default=None, repr=False)

    def run(self) -> Flow[TasksCreateResponse]:
        registry = self.session.registry
        try:
            created: TasksCreateResponse | None = None
            if registry.has_unknown and (unknown := registry.take_unknown(self._key())) is not None:
                created = yield from self._settle_interrupted(unknown)
            attempt = 0
            while created is None:
                attempt += 1
                created = yield from self._attempt(attempt)
            return created
        finally:
            # Also reached when the call is cancelled (asyncio) or interrupted (Ctrl-C) while it waits for an answer.
            if self._unknown is not None:
                registry.keep_unknown(self._key(), self._unknown)

    def _key(self) -> str:
        source_field: dict[str, Any] = {self.request.input_type: {"media_source"}}
        settings = self.request.model_dump_json(by_alias=True, exclude_unset=True, exclude=source_field)
        return hashlib.sha256(f"{source_identity(self.request.source)} {settings}".encode()).hexdigest()

    def _attempt(self, attempt: int) -> Flow[TasksCreateResponse | None]:
        """Send once; None if it is to be sent again."""
        session = self.session
        yield from acquire(session, self.policy, EMBED, self.billed_sec)
        self._ask_caller()
        self._first_sent_at = self._first_sent_at or session.now()
        self._unknown = UnknownCreate(self._first_sent_at, self._in_doubt_until())
        try:
            reply = yield from transmit(session, self.outgoing)
        except ConnectionFailedError as failed:
            if failed.sent:
                return (yield from self._settle(attempt, failed, answered=False))
            self._nothing_created()
            yield from back_off(session, self.policy, attempt, failed, again=self.policy.retry_connection_errors)
            return None
        except UnreadableResponseError as unreadable:  # an answer that is larger than the bound
            return (yield from self._settle(attempt, unreadable, answered=True))
        session.budget.update_from_headers(EMBED, reply.headers, session.monotonic())
        if reply.succeeded:
            created = _read_created(reply)
            if created is not None:
                self._unknown = None
                session.registry.claim_all([created.id])
                session.count(created=1)
                return created
            message = f"The platform answered {reply.status_code} to {self.outgoing.doing}; its body cannot be read."
            doubt: ApiError = UnreadableResponseError(message, status_code=reply.status_code)
            return (yield from self._settle(attempt, doubt, answered=True))
        error = session.error(reply, self.outgoing.doing)
        if reply.status_code >= 500:
            return (yield from self._settle(attempt, error, answered=True))
        self._nothing_created()
        if error.status_code == 429:
            wait = error.retry_after_sec if error.retry_after_sec is not None else self.policy.delay(attempt)
            session.budget.pause_until(EMBED, session.monotonic() + wait)
        yield from back_off(
            session, self.policy, attempt, error, again=error.status_code in self.policy.create_statuses
        )
        return None

    def _ask_caller(self) -> None:
        before_attempt = self.options.get("before_attempt")
        if before_attempt is not None:
            try:
                before_attempt()
            except BaseException:
                self._nothing_created()
                raise

    def _nothing_created(self) -> None:
        self._unknown = None
        self.session.budget.refund_media(self.session.monotonic(), self.billed_sec)

    def _in_doubt_until(self) -> float:
        deadline = self.session.deadline_of(self.outgoing)
        return self.session.monotonic() + (deadline or 0.0) + self.policy.doubt_margin_sec

    def _settle(self, attempt: int, doubt: ApiError, *, answered: bool) -> Flow[TasksCreateResponse | None]:
        """Find out what became of an attempt; None if it made no task and is to be sent again."""
        session = self.session
        if self._unknown is None:
            raise RuntimeError("no attempt was sent")
        now = session.monotonic()
        if answered:
            # The request is over, so all that can be late is the list.
            self._unknown = replace(self._unknown, in_doubt_until=now + sum(self.policy.settle_delays_sec))
        elif self.session.deadline_of(self.outgoing) is None:
            self._unknown = replace(self._unknown, in_doubt_until=self._in_doubt_until())
        delays = self._look_delays(answered=answered)
        found = yield from self._look_repeatedly(doubt, delays)
        if found is not None:
            return found
        if isinstance(doubt, UnreadableResponseError):
            self._unknown = replace(self._unknown, in_doubt_until=now + self.policy.doubt_margin_sec)
            raise self._ambiguous(doubt, "The platform confirmed a task, but the list does not show it yet")
        if not self._resends:
            raise self._ambiguous(doubt, "The list does not show a task yet")
        self._nothing_created()
        yield from back_off(session, self.policy, attempt, doubt, again=True)
        return None

    def _settle_interrupted(self, unknown: UnknownCreate) -> Flow[TasksCreateResponse | None]:
        """Find the task of an earlier create of this source that was cancelled; None if it made none."""
        self._unknown, self._first_sent_at = unknown, unknown.since
        doubt = ConnectionFailedError("An earlier create of this source and settings ended without an answer.")
        found = yield from self._look_repeatedly(doubt, iter((0.0,)))
        if found is not None:
            return found
        if self.session.monotonic() < unknown.in_doubt_until:
            if not self._resends:
                raise self._ambiguous(doubt, "The list does not show a task yet")
            found = yield from self._look_repeatedly(doubt, self._look_delays(answered=False))
        if found is None:
            self._unknown = None
        return found

    @property
    def _resends(self) -> bool:
        return self.options.get("resend_unknown", True)

    def _look_delays(self, *, answered: bool) -> Iterator[float]:
        """Give the waits before each look into the list, in seconds."""
        delays = self.policy.settle_delays_sec
        if not self._resends:
            yield delays[0]
        elif answered:
            yield from delays
        else:
            number, delay = 0, 0.0
            while (left := self._in_doubt_sec) > 0 or number == 0:
                delay = delays[number] if number < len(delays) else min(2 * delay, _LONGEST_LOOK_DELAY_SEC)
                number += 1
                yield min(delay, left)

    @property
    def _in_doubt_sec(self) -> float:
        until = self._unknown.in_doubt_until if self._unknown is not None else 0.0
        return max(0.0, until - self.session.monotonic())

    def _look_repeatedly(self, doubt: ApiError, delays: Iterator[float]) -> Flow[TasksCreateResponse | None]:
        session = self.session
        undecided: str | None = None
        for number, delay in enumerate(delays, 1):
            yield from pause(session, delay)
            search = yield from self._created_search(doubt)
            try:
                (result,) = yield from find_created(session, [search])
            except ApiError as error:
                raise self._ambiguous(doubt, f"The list could not be read either ({error.message})") from error
            undecided = result.undecided
            if undecided is not None and number >= len(self.policy.settle_delays_sec):
                break
            if result.task is not None:
                self._unknown = None
                session.count(adopted=1)
                return TasksCreateResponse.model_validate(
                    {"_id": result.task.id, "status": result.task.status or "processing", "adopted": True}
                )
        if undecided is not None:
            raise self._undecidable(doubt, undecided)
        return None

    def _created_search(self, doubt: ApiError) -> Flow[CreateSearch]:
        if self._unknown is None:
            raise RuntimeError("no attempt was sent")
        if self._search is None or self._search.since != self._unknown.since:
            source = yield from self._source(doubt)
            self._search = CreateSearch(self.request, (source,), self._unknown.since)
        return self._search

    def _source(self, doubt: ApiError) -> Flow[SourceRef]:
        source = SourceRef.of(self.request.source)
        if source is not None:
            return source
        asset_id = self.request.source.asset_id
        if asset_id is not None:
            outgoing = Outgoing(method="GET", path=f"assets/{path_segment(asset_id)}")
            try:
                asset = yield from read(self.session, outgoing, lambda reply: parse_page(_AssetName, reply))
            except ApiError as error:
                raise self._ambiguous(doubt, f"The asset's file name could not be read ({error.message})") from error
            if asset.filename:
                return SourceRef(filename=asset.filename)
        raise self._undecidable(doubt, "The list does not show from which base64 or nameless asset a task was made")

    def _undecidable(self, doubt: ApiError, why: str) -> AmbiguousCreateError:
        error = self._ambiguous(doubt, why)
        # Another look would find the same. The caller has to decide, and its next create is its decision.
        self._unknown = None
        return error

    def _ambiguous(self, doubt: ApiError, why: str) -> AmbiguousCreateError:
        return AmbiguousCreateError(
            f"It is not known whether a task was created ({doubt.message.rstrip('.')}). {why.rstrip('.')}. The request "
            "was not sent again, because that might pay twice: look with tasks.find, and create the task again only if "
            "it is not there.",
            in_doubt_sec=self._in_doubt_sec,
            status_code=doubt.status_code,
            code=doubt.code,
            request_id=doubt.request_id,
            headers=doubt.headers,
            body=doubt.body,
        )


class _AssetName(ResponseModel):
    filename: str | None = None


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
    except ValueError:
        body = None
    if isinstance(body, Mapping) and (task_id := body.get("_id") or body.get("id")):
        try:
            return TasksCreateResponse.model_validate(body)
        except ValidationError:  # something odd beside the id, which is what was paid for
            return TasksCreateResponse.model_validate({"_id": str(task_id)})
    # The header names the task as well; whatever became of the body, the task exists and is ours.
    head, _, task_id = reply.headers.get("location", "").partition("?")[0].rstrip("/").rpartition("/")
    return TasksCreateResponse.model_validate({"_id": task_id}) if task_id and head.endswith("embed-v2/tasks") else None
