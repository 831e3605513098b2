"""What an operation is, apart from how bytes travel: a generator that asks for requests and pauses.

Every operation of the client (create, list, wait, upload...) is written once, as a generator that yields what it wants
done (:class:`Send`, :class:`Pause`, :class:`Call`, :class:`Together`) and is sent the outcome. The drivers in
:mod:`embed_pipeline.client.drivers` do it, one with threads and one with asyncio.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypedDict, TypeVar
from urllib.parse import quote

from embed_pipeline.client.errors import (
    ApiError,
    BadRequestError,
    ConflictError,
    ConnectionFailedError,
    ForbiddenError,
    InternalServerError,
    NotFoundError,
    RetryLaterError,
    TooManyRequestsError,
    UnauthorizedError,
    UnreadableResponseError,
)
from embed_pipeline.client.limits import UPLOAD, Budget, Category, RetryPolicy, read_http_date, read_retry_after
from embed_pipeline.redaction import redact, redact_headers, redact_value, without_credentials

T = TypeVar("T")
Flow = Generator[Any, Any, T]
_CLOCK_GOOD_FOR_SEC = 10.0
_CLAIM_KEPT_SEC = 86400.0
_UNKNOWN_KEPT = 10_000
Form = dict[str, tuple[Any, ...]]


class RequestOptions(TypedDict, total=False):
    """What one call may ask for beyond the client's settings; the official SDK's names.

    Attributes:
        timeout_in_seconds: For each attempt.
        max_retries: How often the request is sent again; 0 for never. (The official SDK counts otherwise.)
        additional_headers: Sent as well.
        additional_query_parameters: Sent as well.
        before_attempt: For ``create``: called right before each attempt is sent, after every wait for a limit; what it
            raises ends the call with nothing more sent. Must not block for long.
        max_wait_sec: The longest single wait, in seconds, that the platform or a limit may ask for in this call; beyond
            it :class:`RetryLaterError` says when to come back.
        resend_unknown: For ``create``: False ends the call with :class:`AmbiguousCreateError` after an attempt with an
            unknown outcome and one look into the list, instead of settling it and sending again. True by default.
    """

    timeout_in_seconds: float
    max_retries: int
    additional_headers: Mapping[str, str]
    additional_query_parameters: Mapping[str, str]
    before_attempt: Callable[[], None]
    max_wait_sec: float
    resend_unknown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request to be sent.

    Attributes:
        method: HTTP method.
        path: Below the base URL, without a leading slash; or a whole URL if ``foreign``.
        params: Query parameters; those that are None are left out.
        json: Body as JSON.
        content: Body as bytes.
        form: Makes the parts of a multipart form, as httpx takes ``files``; called for every attempt.
        headers: Further headers.
        foreign: Whether it goes to somebody else's URL (a presigned one), without our key.
        timeout_sec: For this request, seconds; None for the client's own.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    form: Callable[[], Form] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    foreign: bool = False
    timeout_sec: float | None = None

    @property
    def doing(self) -> str:
        """What this is, for people: method and address without its query."""
        return f"{self.method} {without_credentials(self.path) if self.foreign else '/' + self.path}"

    def __repr__(self) -> str:
        return f"Outgoing({self.doing})"


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer.

    Attributes:
        status_code: HTTP status.
        headers: With lower-case names.
        content: The body, decompressed.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def succeeded(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status_code < 300

    def __repr__(self) -> str:
        return f"Reply({self.status_code}, {len(self.content)} bytes)"


@dataclass(frozen=True, slots=True)
class Send:
    """Asks for a request to be sent; answered by a :class:`Reply`, or a :class:`ConnectionFailedError` is thrown in."""

    request: Outgoing


@dataclass(frozen=True, slots=True)
class Pause:
    """Asks for a pause, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """Asks for something that blocks, such as reading a file; answered by its result, or its error is thrown in."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Together:
    """Asks for flows to be run side by side; answered by their results in order, or the first error is thrown in."""

    flows: Sequence[Flow[Any]]
    at_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStats:
    """What a client has done so far.

    Attributes:
        requests: Requests sent, each attempt counted.
        retries: Attempts after the first.
        rate_limited: Answers with status 429.
        waited_sec: Time spent in waits for limits and between attempts, seconds, summed over threads.
        created: Tasks that were created, without those adopted.
        adopted: Tasks found in the list after a create whose outcome was unknown.
    """

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    waited_sec: float = 0.0
    created: int = 0
    adopted: int = 0


@dataclass(frozen=True, slots=True)
class UnknownCreate:
    """A create that may have made a task although nobody received its answer.

    Args:
        since: When its first attempt was sent, by our clock, UTC.
        in_doubt_until: Until when the platform may still carry it out, by the monotonic clock.
    """

    since: datetime
    in_doubt_until: float


class CreateRegistry:
    """Creates of this process: tasks that belong to a caller already, and creates whose outcome nobody learnt.

    It is shared by all clients of the process with the same address and key. Safe to use from many threads.
    """

    _shared: ClassVar[dict[tuple[str, str], CreateRegistry]] = {}
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: dict[str, float] = {}
        self._unknown: dict[str, list[UnknownCreate]] = {}

    @classmethod
    def shared(cls, base_url: str, api_key: str) -> CreateRegistry:
        """Return the process's one registry for this platform and key. The key itself is not kept."""
        who = (base_url, hashlib.sha256(api_key.encode()).hexdigest())
        with cls._shared_lock:
            return cls._shared.setdefault(who, cls())

    def claim_all(self, task_ids: Iterable[str]) -> None:
        """Mark tasks as belonging to a caller."""
        now = time.monotonic()
        with self._lock:
            self._claimed.update(dict.fromkeys(task_ids, now))
            # Searches go back to the first attempt of a create; what is much older than any create can be forgotten.
            while self._claimed:
                oldest = next(iter(self._claimed))
                if self._claimed[oldest] > now - _CLAIM_KEPT_SEC:
                    break
                del self._claimed[oldest]

    def claim_free(self, task_ids: Sequence[str]) -> list[str]:
        """Mark tasks as belonging to a caller, unless one of them already does: then mark none, and return those."""
        with self._lock:
            taken = [task_id for task_id in task_ids if task_id in self._claimed]
            if not taken:
                self._claimed.update(dict.fromkeys(task_ids, time.monotonic()))
        return taken

    def is_claimed(self, task_id: str) -> bool:
        """Return True if a create or a search of this process already answered with this task."""
        with self._lock:
            return task_id in self._claimed

    @property
    def has_unknown(self) -> bool:
        """True if any create with an unknown outcome is remembered."""
        return bool(self._unknown)

    def keep_unknown(self, key: str, unknown: UnknownCreate) -> None:
        """Remember a create with an unknown outcome for the next create of the same source and settings."""
        with self._lock:
            self._unknown.setdefault(key, []).append(unknown)
            while len(self._unknown) > _UNKNOWN_KEPT:
                del self._unknown[next(iter(self._unknown))]

    def take_unknown(self, key: str) -> UnknownCreate | None:
        """Return the oldest create of this source and settings with an unknown outcome, and forget it; or None."""
        with self._lock:
            found = self._unknown.get(key)
            if not found:
                return None
            unknown = found.pop(0)
            if not found:
                del self._unknown[key]
            return unknown


class Session:
    """What all operations of a client share. Safe to use from many threads.

    Args:
        base_url: With ``/v1.3``, without a trailing slash.
        api_key: Sent as ``x-api-key``; never shown.
        retries: What is tried again.
        budget: What may be spent.
        deadline_sec: Deadline of an attempt, in seconds; None for none.
        registry: The process's creates; one of its own by default.
        now: The wall clock, UTC.
        monotonic: A clock that never goes back, seconds.
        chance: A random number from 0 to 1.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        retries: RetryPolicy,
        budget: Budget,
        deadline_sec: float | None = None,
        registry: CreateRegistry | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.base_url = base_url
        self.api_key = api_key
        self.retries = retries
        self.budget = budget
        self.deadline_sec = deadline_sec
        self.registry = registry or CreateRegistry()
        self.now = now
        self.monotonic = monotonic
        self.chance = chance
        self._lock = threading.Lock()
        self._counts: dict[str, float] = dict.fromkeys(ClientStats.__dataclass_fields__, 0)
        self._clock_offset_sec: float | None = None
        self._clock_read_again_at = -math.inf

    def __repr__(self) -> str:
        return f"Session({without_credentials(self.base_url)})"

    def count(self, **amounts: float) -> None:
        """Adds to the figures of :class:`ClientStats`."""
        with self._lock:
            for name, amount in amounts.items():
                self._counts[name] += amount

    def stats(self) -> ClientStats:
        """The figures so far."""
        with self._lock:
            counts = dict(self._counts)
        waited = counts.pop("waited_sec")
        return ClientStats(waited_sec=waited, **{name: int(amount) for name, amount in counts.items()})

    @property
    def clock_offset_sec(self) -> float | None:
        """How far the platform's clock is ahead of ours, in seconds (whole ones), or None as long as it did not say."""
        return self._clock_offset_sec

    def read_clock(self, reply: Reply) -> None:
        """Learns the platform's clock from the ``Date`` header of an answer."""
        if self.monotonic() < self._clock_read_again_at:
            return
        date = read_http_date(reply.headers.get("date"))
        if date is not None:
            self._clock_offset_sec = (date - self.now()).total_seconds()
            self._clock_read_again_at = self.monotonic() + _CLOCK_GOOD_FOR_SEC

    def policy(self, options: RequestOptions | None) -> RetryPolicy:
        """The retry policy of one call."""
        policy = self.retries
        if options and "max_retries" in options:
            policy = replace(policy, max_attempts=options["max_retries"] + 1)
        if options and "max_wait_sec" in options:
            policy = replace(policy, max_wait_sec=options["max_wait_sec"])
        return policy

    def deadline_of(self, request: Outgoing) -> float | None:
        """Return the deadline of one attempt, in seconds; None for none."""
        return self.deadline_sec if request.timeout_sec is None else request.timeout_sec

    def error(self, reply: Reply, doing: str) -> ApiError:
        """The error that an answer stands for."""
        return read_error(reply, doing, self.api_key, retry_after_sec=read_retry_after(reply.headers, self.now()))


def path_segment(identifier: str) -> str:
    """An id as it goes into a path, so that no id can name another resource."""
    if not identifier:
        raise ValueError("the id is empty")
    return quote(identifier, safe="")


def with_options(request: Outgoing, options: RequestOptions | None) -> Outgoing:
    """The request with what one call asks for beyond the client's settings."""
    if not options:
        return request
    return replace(
        request,
        timeout_sec=options.get("timeout_in_seconds", request.timeout_sec),
        headers={**request.headers, **options.get("additional_headers", {})},
        params={**request.params, **options.get("additional_query_parameters", {})},
    )


def transmit(session: Session, request: Outgoing) -> Flow[Reply]:
    """Sends once, and counts."""
    session.count(requests=1)
    reply: Reply = yield Send(request)
    session.read_clock(reply)
    if reply.status_code == 429:
        session.count(rate_limited=1)
    return reply


def read(
    session: Session, request: Outgoing, parse: Callable[[Reply], T], options: RequestOptions | None = None
) -> Flow[T]:
    """Sends what may safely be repeated, as often as the policy allows, and parses the answer.

    Raises:
        ApiError: The platform refused, could not be reached, or its answer could not be read.
    """
    request, policy = with_options(request, options), session.policy(options)
    attempt = 0
    while True:
        attempt += 1
        error: ApiError
        try:
            reply = yield from transmit(session, request)
            if reply.succeeded:
                return parse(reply)
            error = session.error(reply, request.doing)
            again = reply.status_code in policy.read_statuses
        except ConnectionFailedError as failed:
            error, again = failed, policy.retry_connection_errors
        except UnreadableResponseError as unreadable:
            error, again = unreadable, policy.retry_connection_errors and unreadable.passing
        yield from back_off(session, policy, attempt, error, again=again)


def back_off(session: Session, policy: RetryPolicy, attempt: int, error: ApiError, *, again: bool) -> Flow[None]:
    """Waits before the next attempt, or raises the error if there is to be none.

    Raises:
        ApiError: The error, if it is not to be tried again.
        RetryLaterError: The platform asks for a longer wait than the policy allows.
    """
    if not again or attempt >= policy.max_attempts:
        raise error
    seconds = policy.delay(attempt, retry_after_sec=error.retry_after_sec, chance=session.chance())
    asked_for = error.retry_after_sec is not None or error.status_code == 429
    if asked_for and seconds > policy.max_wait_sec:
        raise later(session, seconds, policy, error) from error
    session.count(retries=1)
    yield from pause(session, seconds)


def pause(session: Session, seconds: float) -> Flow[None]:
    """Waits, and counts the time."""
    if seconds > 0:
        session.count(waited_sec=seconds)
        yield Pause(seconds)


def later(session: Session, seconds: float, policy: RetryPolicy, cause: ApiError | None = None) -> RetryLaterError:
    """The error that says when to come back instead of sleeping past the caller's bound."""
    retry_at = session.now() + timedelta(seconds=seconds)
    why = "The limits of the plan are spent" if cause is None else cause.message.rstrip(".")
    return RetryLaterError(
        f"{why}. Come back at {retry_at:%Y-%m-%dT%H:%M:%SZ}, in {seconds:.0f} s; "
        f"waits of up to {policy.max_wait_sec:.0f} s are allowed here (RetryPolicy.max_wait_sec).",
        retry_at=retry_at,
        reason=why,
        retry_after_sec=seconds,
        status_code=cause.status_code if cause else 429,
        code=cause.code if cause else None,
        request_id=cause.request_id if cause else None,
        headers=cause.headers if cause else None,
        body=cause.body if cause else "",
    )


def admit(session: Session, policy: RetryPolicy, category: Category, media_sec: float = 0.0) -> Flow[None]:
    """Waits until the budget has room for one more request, which is then taken out of it.

    Raises:
        RetryLaterError: That would take longer than the policy allows.
    """
    seconds = session.budget.reserve(category, session.monotonic(), media_sec, max_wait_sec=policy.max_wait_sec)
    if seconds > policy.max_wait_sec:
        raise later(session, seconds, policy)
    yield from pause(session, seconds)


def create_once(
    session: Session, request: Outgoing, parse: Callable[[Reply], T], options: RequestOptions | None
) -> Flow[T]:
    """Sends what creates something that costs no money: again only where nothing was created."""
    request, policy = with_options(request, options), session.policy(options)
    attempt = 0
    while True:
        attempt += 1
        yield from admit(session, policy, UPLOAD)
        try:
            reply = yield from transmit(session, request)
        except ConnectionFailedError as failed:
            again = policy.retry_connection_errors and not failed.sent
            yield from back_off(session, policy, attempt, failed, again=again)
            continue
        session.budget.learn(UPLOAD, reply.headers, session.monotonic())
        if reply.succeeded:
            return parse(reply)
        error = session.error(reply, request.doing)
        if reply.status_code == 429:
            wait = error.retry_after_sec if error.retry_after_sec is not None else policy.delay(attempt)
            session.budget.hold(UPLOAD, session.monotonic() + wait)
        yield from back_off(session, policy, attempt, error, again=reply.status_code in policy.create_statuses)


_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-amzn-requestid", "x-amz-cf-id", "cf-ray")
_SHOWN_BODY = 300
_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    429: TooManyRequestsError,
}

_ADVICE = {
    401: "Check EMBED_API_KEY.",
    403: "The key is known, but its plan or region does not allow this.",
}


def read_error(reply: Reply, doing: str, *secrets: str, retry_after_sec: float | None = None) -> ApiError:
    """The error that an answer other than 2xx stands for.

    Reads both documented shapes, ``{"error": {"code", "message", "details"}}`` and ``{"code", "message"}``, as well as
    empty and HTML bodies.

    Args:
        reply: The answer.
        doing: What was asked, such as ``GET /embed-v2/tasks``.
        *secrets: Texts that must not appear in the error.
        retry_after_sec: What ``Retry-After`` said, in seconds.
    """
    body = _parse_body(reply)
    code, said, details = _code_and_message(body)
    kind = _BY_STATUS.get(reply.status_code)
    if kind is None:
        kind = InternalServerError if reply.status_code >= 500 else ApiError
    request_id = next((reply.headers[name] for name in _REQUEST_ID_HEADERS if name in reply.headers), None)
    if request_id is None and isinstance(details, Mapping) and details.get("requestId"):
        request_id = str(details["requestId"])
    sentence = f"The platform answered {reply.status_code}{f' ({code})' if code else ''} to {doing}"
    sentence += f": {said}" if said else "."
    if advice := _ADVICE.get(reply.status_code):
        sentence = f"{sentence.rstrip()} {advice}"
    if request_id:
        sentence += f" [request {request_id}]"
    return kind(
        redact(sentence, *secrets),
        status_code=reply.status_code,
        code=code,
        request_id=request_id,
        headers=redact_headers(reply.headers, *secrets),
        body=redact_value(body, *secrets),
        retry_after_sec=retry_after_sec,
    )


def _parse_body(reply: Reply) -> Any:
    text = reply.content.decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _code_and_message(body: Any) -> tuple[str | None, str, Any]:
    if isinstance(body, Mapping):
        inner = body.get("error")
        source: Mapping[str, Any] = inner if isinstance(inner, Mapping) else body
        message = source.get("message") or (inner if isinstance(inner, str) else "")
        code = source.get("code")
        return (str(code) if code else None), str(message or ""), source.get("details")
    if isinstance(body, str):
        stripped = body.strip()
        if stripped[:1] == "<":
            return None, "an HTML page instead of JSON, probably from a gateway.", None
        return None, stripped[:_SHOWN_BODY], None
    return None, str(body)[:_SHOWN_BODY] if body is not None else "", None
