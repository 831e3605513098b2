"""What can go wrong between here and the platform: one family, each error with all that the platform told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.redaction import redact, redact_headers, redact_value

if TYPE_CHECKING:
    from embed_pipeline.client.exchange import Reply

_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-amzn-requestid", "x-amz-cf-id", "cf-ray")
_SHOWN_BODY = 300


class ApiError(EmbedPipelineError):
    """The platform refused a request, could not be reached, or sent what cannot be read.

    The official SDK's attributes (``status_code``, ``headers``, ``body``) have the same names here.

    Attributes:
        status_code: HTTP status, or None if no answer arrived.
        code: The platform's own word for the error, such as ``parameter_invalid``, or None.
        request_id: What the platform's support asks for, or None.
        headers: Response headers with lower-case names, redacted.
        body: The parsed JSON, or text, or ``""``; redacted.
        retry_after_sec: How long the platform asked to wait, in seconds, or None if it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = "",
        retry_after_sec: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.request_id = request_id
        self.headers = dict(headers or {})
        self.body = body
        self.retry_after_sec = retry_after_sec


class BadRequestError(ApiError):
    """400: the request breaks a rule that only the platform can check."""


class UnauthorizedError(ApiError):
    """401: the API key is wrong, or has expired."""


class ForbiddenError(ApiError):
    """403: the plan, or the region, does not allow this."""


class NotFoundError(ApiError):
    """404: no such task or asset, or its result is older than the platform keeps it (seven days)."""


class ConflictError(ApiError):
    """409: the asset is still in use."""


class TooManyRequestsError(ApiError):
    """429: a limit of the plan is spent. Nothing was created."""


class InternalServerError(ApiError):
    """5xx: the platform, or a gateway before it, failed."""


class ConnectionFailedError(ApiError):
    """No complete answer arrived: refused, reset, timed out, or cut off in the middle.

    Attributes:
        sent: Whether the platform may have seen the request; False if the connection never came about.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class UnreadableResponseError(ApiError):
    """An answer arrived and is not what the contract says: truncated JSON, an HTML page, a vector that is not finite.

    Attributes:
        passing: Whether asking again may help (a cut-off body), or not (a vector that is not finite).
    """

    def __init__(self, message: str, *, passing: bool = True, status_code: int | None = None) -> None:
        super().__init__(message, status_code=status_code)
        self.passing = passing


class AmbiguousCreateError(ApiError):
    """Unknown outcome of a create: a task may exist, and sending it again might pay twice.

    Look for the task with ``tasks.find`` or ``tasks.find_created`` before you create it again.

    Args:
        in_doubt_sec: How long from now the platform may still carry the request out, in seconds.
    """

    def __init__(self, message: str, *, in_doubt_sec: float = 0.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.in_doubt_sec = in_doubt_sec


class RetryLaterError(TooManyRequestsError):
    """The wait for a limit is longer than the caller allows. Nothing was created.

    Attributes:
        retry_at: When to come back, UTC.
        reason: Which limit stands in the way, without when it ends.
    """

    def __init__(self, message: str, *, retry_at: datetime | None = None, reason: str = "", **told: Any) -> None:
        super().__init__(message, **told)
        self.retry_at = retry_at
        self.reason = reason


class InvalidRequestError(EmbedPipelineError, ValueError):
    """The platform would refuse this request; it was not sent and cost nothing."""


class EmptyResultError(EmbedPipelineError):
    """A task says that it is ready and holds no vector."""


class TaskFailedError(EmbedPipelineError):
    """The platform could not embed the media; the message holds its own words.

    Attributes:
        task_id: The task.
        reason: The platform's words, or "" if it gave none.
    """

    def __init__(self, message: str, *, task_id: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.task_id = task_id
        self.reason = reason


class WaitTimeoutError(EmbedPipelineError, TimeoutError):
    """The deadline passed before a task or an asset was processed; it goes on, and can be waited for again."""


class UploadError(EmbedPipelineError):
    """A file cannot be uploaded: it changed meanwhile, is too large, or the platform could not read it.

    Attributes:
        passing: Whether another attempt may succeed, or not, since it is the file itself that cannot be taken.
    """

    def __init__(self, message: str, *, passing: bool = True) -> None:
        super().__init__(message)
        self.passing = passing


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
