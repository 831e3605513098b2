"""Operations apart from how bytes travel: generators that ask for requests and pauses.

Every operation of the client (create, list, wait, upload...) is written once, as a generator that yields what it wants
done (`Send`, `Pause`, `Call`, `Together`) and is sent the outcome. The drivers in `embed_pipeline.client.transport` do
it, one with threads and one with asyncio.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypedDict, TypeVar, cast
from urllib.parse import quote

from embed_pipeline.client.errors import (
    ApiError,
    BadRequestError,
    ConflictError,
    ConnectionFailedError,
    ForbiddenError,
    InternalServerError,
    InvalidRequestError,
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
_SHOWN_BODY = 300
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-amzn-requestid", "x-amz-cf-id", "cf-ray")
Form = dict[str, tuple[Any, ...]]


class RequestOptions(TypedDict, total=False):
    """Options of one call beyond the client's settings; the first six are the official SDK's.

    Args:
        timeout_in_seconds: Deadline of each attempt, in seconds.
        max_retries: How often the request is sent again; 0 for never. (The official SDK counts otherwise.)
        additional_headers: Sent as well.
        additional_query_parameters: Sent as well.
        additional_body_parameters: Sent as well, as further fields of the JSON body or of the form.
        chunk_size: Bytes of an answer that are read at a time.
        before_attempt: For `create`: called right before each attempt is sent, after every wait for a limit; what it
            raises ends the call with nothing more sent. Must not block for long.
        max_wait_sec: The longest single wait, in seconds, that the platform or a limit may ask for in this call; beyond
            it `RetryLaterError` says when to come back.
        resend_unknown: For `create`: False ends the call with `AmbiguousCreateError` after an attempt with an unknown
            outcome and one look into the list, instead of settling it and sending again. True by default.
    """

    timeout_in_seconds: float
    max_retries: int
    additional_headers: Mapping[str, Any]
    additional_query_parameters: Mapping[str, Any]
    additional_body_parameters: Mapping[str, Any]
    chunk_size: int
    before_attempt: Callable[[], None]
    max_wait_sec: float
    resend_unknown: bool


def checked_options(options: RequestOptions | None) -> RequestOptions:
    """Return the options that are set.

    Raises:
        InvalidRequestError: There is no such option, or a number is out of bounds.
    """
    if not options:
        return {}
    known = RequestOptions.__annotations__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InvalidRequestError(
            f"There is no request option {', '.join(map(repr, unknown))}; the options are {', '.join(known)}."
        )
    least = {"timeout_in_seconds": 0.0, "max_retries": 0, "chunk_size": 1, "max_wait_sec": 0.0}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name, bound in least.items():
        value = given.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= bound:
            raise InvalidRequestError(f"The request option {name} is {value!r}: give a number of {bound} or more.")
    if given.get("timeout_in_seconds") == 0:
        raise InvalidRequestError("The request option timeout_in_seconds is 0: no answer can arrive in no time.")
    return cast(RequestOptions, given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request to be sent.

    Args:
        method: HTTP method.
        path: Below the base URL, without a leading slash; or a whole URL if `foreign`.
        params: Query parameters; those that are None are left out.
        json: Body as JSON.
        content: Body as bytes.
        form: Makes the parts of a multipart form, as httpx takes `files`; called for every attempt with the stack that
            closes what it opens.
        form_bytes: About how many bytes the form has.
        headers: Further headers.
        foreign: True if it goes to somebody else's URL (a presigned one), without our key.
        timeout_sec: Deadline of this request, in seconds; None for the client's own.
        chunk_size: Bytes of the answer that are read at a time; None for what arrives.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    form: Callable[[ExitStack], Form] | None = None
    form_bytes: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    foreign: bool = False
    timeout_sec: float | None = None
    chunk_size: int | None = None

    @property
    def doing(self) -> str:
        """Description for messages: method and address without credentials and query."""
        return f"{self.method} {without_credentials(self.path) if self.foreign else '/' + self.path}"

    @property
    def body_bytes(self) -> int:
        """Size of the body, as far as it matters for the time it takes to send."""
        return self.form_bytes if self.content is None else len(self.content)

    def __repr__(self) -> str:
        return f"Outgoing({self.doing})"


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer.

    Args:
        status_code: HTTP status.
        headers: With lower-case names.
        content: The body, decompressed.
        proxy: The proxy that it came through, without credentials; None if it came directly.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes | bytearray
    proxy: str | None = None

    @property
    def succeeded(self) -> bool:
        """True if the status is 2xx."""
        return 200 <= self.status_code < 300

    def __repr__(self) -> str:
        return f"Reply({self.status_code}, {len(self.content)} bytes)"


@dataclass(frozen=True, slots=True)
class Send:
    """Request to be sent; answered by a `Reply`, or a `ConnectionFailedError` is thrown in."""

    request: Outgoing


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """Call of a function that blocks, such as reading a file; answered by its result, or its error is thrown in."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Together:
    """Flows to be run side by side; answered by their results in order, or the first error is thrown in."""

    flows: Sequence[Flow[Any]]
    at_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStats:
    """Figures of a client so far.

    Args:
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
    """State that all operations of a client share. Safe to use from many threads.

    Args:
        base_url: With `/v1.3`, without a trailing slash.
        api_key: Sent as `x-api-key`; never shown.
        retries: What is tried again.
        budget: What may be spent.
        deadline_sec: Deadline of an attempt without a body, in seconds; None for none.
        min_bytes_per_sec: The lowest rate of transfer that is accepted, bytes a second.
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
        min_bytes_per_sec: float = math.inf,
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
        self.min_bytes_per_sec = min_bytes_per_sec
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
        """Add to the figures of `ClientStats`."""
        with self._lock:
            for name, amount in amounts.items():
                self._counts[name] += amount

    def stats(self) -> ClientStats:
        """Return the figures so far."""
        with self._lock:
            counts = dict(self._counts)
        waited = counts.pop("waited_sec")
        return ClientStats(waited_sec=waited, **{name: int(amount) for name, amount in counts.items()})

    @property
    def clock_offset_sec(self) -> float | None:
        """Seconds (whole ones) that the platform's clock is ahead of ours; None as long as it is not known."""
        return self._clock_offset_sec

    def read_clock(self, reply: Reply) -> None:
        """Take the platform's clock from the `Date` header of an answer."""
        if self.monotonic() < self._clock_read_again_at:
            return
        date = read_http_date(reply.headers.get("date"))
        if date is not None:
            self._clock_offset_sec = (date - self.now()).total_seconds()
            self._clock_read_again_at = self.monotonic() + _CLOCK_GOOD_FOR_SEC

    def policy(self, options: RequestOptions | None) -> RetryPolicy:
        """Return the retry policy of one call."""
        policy, options = self.retries, checked_options(options)
        if "max_retries" in options:
            policy = replace(policy, max_attempts=options["max_retries"] + 1)
        if "max_wait_sec" in options:
            policy = replace(policy, max_wait_sec=options["max_wait_sec"])
        return policy

    def deadline_of(self, request: Outgoing) -> float | None:
        """Return the deadline of one attempt until its answer begins, in seconds; None for none."""
        own = self.deadline_sec if request.timeout_sec is None else request.timeout_sec
        return None if own is None or math.isinf(own) else own + request.body_bytes / self.min_bytes_per_sec

    def error(self, reply: Reply, doing: str) -> ApiError:
        """Return the error that an answer stands for."""
        return read_error(reply, doing, self.api_key, retry_after_sec=read_retry_after(reply.headers, self.now()))


def path_segment(identifier: str) -> str:
    """Return an id as it goes into a path, so that no id can name another resource.

    Raises:
        InvalidRequestError: It is no text, or empty.
    """
    if not isinstance(identifier, str) or not identifier:
        raise InvalidRequestError(f"The id is {identifier!r}: give the text that the platform gave.")
    return quote(identifier, safe="")


def with_options(request: Outgoing, options: RequestOptions | None) -> Outgoing:
    """Return the request with the options of one call."""
    options = checked_options(options)
    if not options:
        return request
    more = {name: str(value) for name, value in options.get("additional_headers", {}).items()}
    return replace(
        _with_body_parameters(request, options.get("additional_body_parameters")),
        timeout_sec=options.get("timeout_in_seconds", request.timeout_sec),
        chunk_size=options.get("chunk_size", request.chunk_size),
        headers={**request.headers, **{name.lower(): value for name, value in more.items()}},
        params={**request.params, **options.get("additional_query_parameters", {})},
    )


def _with_body_parameters(request: Outgoing, extra: Mapping[str, Any] | None) -> Outgoing:
    if not extra:
        return request
    if request.content is not None:
        return replace(request, content=json.dumps({**json.loads(request.content), **extra}).encode())
    if request.form is not None:
        form = request.form
        fields = {name: (None, value if isinstance(value, str) else json.dumps(value)) for name, value in extra.items()}
        return replace(request, form=lambda opened: {**form(opened), **fields})
    return replace(request, json={**(request.json or {}), **extra})


def transmit(session: Session, request: Outgoing) -> Flow[Reply]:
    """Send once, and count."""
    session.count(requests=1)
    reply: Reply = yield Send(request)
    session.read_clock(reply)
    if reply.status_code == 429:
        session.count(rate_limited=1)
    return reply


def read(
    session: Session, request: Outgoing, parse: Callable[[Reply], T], options: RequestOptions | None = None
) -> Flow[T]:
    """Send what may safely be repeated, as often as the policy allows, and parse the answer.

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
            error, again = unreadable, policy.retry_connection_errors and unreadable.retryable
        yield from back_off(session, policy, attempt, error, again=again)


def create_once(
    session: Session, request: Outgoing, parse: Callable[[Reply], T], options: RequestOptions | None
) -> Flow[T]:
    """Send what creates something that costs no money: again only where nothing was created.

    Raises:
        ApiError: The platform refused, could not be reached, or its answer could not be read. After a connection that
            broke off the request is not repeated.
    """
    request, policy = with_options(request, options), session.policy(options)
    attempt = 0
    while True:
        attempt += 1
        yield from acquire(session, policy, UPLOAD)
        try:
            reply = yield from transmit(session, request)
        except ConnectionFailedError as failed:
            again = policy.retry_connection_errors and not failed.sent
            yield from back_off(session, policy, attempt, failed, again=again)
            continue
        session.budget.update_from_headers(UPLOAD, reply.headers, session.monotonic())
        if reply.succeeded:
            return parse(reply)
        error = session.error(reply, request.doing)
        if reply.status_code == 429:
            wait = error.retry_after_sec if error.retry_after_sec is not None else policy.delay(attempt)
            session.budget.pause_until(UPLOAD, session.monotonic() + wait)
        yield from back_off(session, policy, attempt, error, again=reply.status_code in policy.create_statuses)


def back_off(session: Session, policy: RetryPolicy, attempt: int, error: ApiError, *, again: bool) -> Flow[None]:
    """Wait before the next attempt, or raise the error if there is to be none.

    Raises:
        ApiError: The error, if it is not to be tried again.
        RetryLaterError: The platform asks for a longer wait than the policy allows.
    """
    if not again or attempt >= policy.max_attempts:
        raise error
    seconds = policy.delay(attempt, retry_after_sec=error.retry_after_sec, chance=session.chance())
    asked_for = error.retry_after_sec is not None or error.status_code == 429
    if asked_for and seconds > policy.max_wait_sec:
        raise _later(session, seconds, policy, error.message.rstrip("."), error) from error
    session.count(retries=1)
    yield from pause(session, seconds)


def pause(session: Session, seconds: float) -> Flow[None]:
    """Wait, and count the time."""
    if seconds > 0:
        session.count(waited_sec=seconds)
        yield Pause(seconds)


def acquire(session: Session, policy: RetryPolicy, category: Category, media_sec: float = 0.0) -> Flow[None]:
    """Wait until the budget has room for one more request, which is then taken out of it.

    Raises:
        RetryLaterError: That would take longer than the policy allows.
    """
    now = session.monotonic()
    seconds = session.budget.reserve(category, now, media_sec, max_wait_sec=policy.max_wait_sec)
    if seconds > policy.max_wait_sec:
        why = "The limits of the plan are spent"
        if session.budget.paused_until(category, now) is not None:
            why = (
                "The platform asked for a pause (Retry-After), which all clients of this process keep; "
                "client.resume() ends it before its time"
            )
        raise _later(session, seconds, policy, why)
    yield from pause(session, seconds)


def _later(
    session: Session, seconds: float, policy: RetryPolicy, why: str, cause: ApiError | None = None
) -> RetryLaterError:
    """Return the error that says when to come back, raised instead of sleeping past the caller's bound."""
    retry_at = session.now() + timedelta(seconds=seconds)
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
    """Return the error that an answer other than 2xx stands for.

    Reads both documented shapes, `{"error": {"code", "message", "details"}}` and `{"code", "message"}`, as well as
    empty and HTML bodies.

    Args:
        reply: The answer.
        doing: What was asked, such as `GET /embed-v2/tasks`.
        *secrets: Texts that must not appear in the error.
        retry_after_sec: The wait that `Retry-After` asks for, in seconds.
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
    if reply.proxy is not None:
        sentence += f" through the proxy {reply.proxy}"
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
