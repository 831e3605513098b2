"""What can go wrong between here and the platform: one family, each error with all that the platform told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from embed_pipeline.errors import EmbedPipelineError

Culprit = Literal["media", "account", "platform", "unclear"]

# The platform may say any of these with 400, as it does of an unreadable file.
_ACCOUNT_CODES = frozenset(
    {"api_key_invalid", "unauthorized", "api_allowed_for_paid_plan", "api_not_allowed", "region_not_allowed"}
    | {"usage_limit_exceeded", "too_many_requests", "api_upgrade_required"}
)
_ACCOUNT_STATUSES = frozenset({401, 402, 403, 429})
_PLATFORM_CODES = frozenset({"resource_not_exist", "request_canceled_or_timed_out"})
_MEDIA_STATUSES = frozenset({400, 413, 415, 422})

FailureClass = Literal["transient", "permanent", "expired", "unclear"]

# Matched on parts of sentences, in this order: the platform words them freely and puts numbers into them.
_PARTS: tuple[tuple[str, FailureClass], ...] = (
    ("no longer available", "expired"),
    ("exceed", "permanent"),
    ("context window", "permanent"),
    ("request was invalid", "permanent"),
    ("could not process your media", "permanent"),
    ("verify the input", "permanent"),
    ("temporarily unstable", "transient"),
    ("failed to fetch or materialize", "transient"),
    ("could not complete processing", "unclear"),
    ("try again later", "transient"),
    ("try later", "transient"),
)
_SPACE = re.compile(r"\s+")


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


def classify_failure(message: str | None) -> FailureClass:
    """Whether a failed task is worth a new one.

    Args:
        message: ``error.message`` of a failed task, as the platform wrote it.

    Returns:
        ``transient`` (a new task may succeed; where the source could not be fetched, with a fresh URL), ``permanent``
        (this media file will fail again), ``expired`` (the result is gone, the source must be embedded again), or
        ``unclear`` (unknown words: worth one more try).
    """
    text = _SPACE.sub(" ", message or "").lower()
    return next((kind for part, kind in _PARTS if part in text), "unclear")


def culprit_of(error: Exception) -> Culprit:
    """Whom an error blames, and so whether asking again for the same media file may help.

    Args:
        error: What creating a task, an upload or another request raised.

    Returns:
        ``media`` (the file or what is asked of it was turned down, and would be again), ``account`` (the key, the plan
        or what is left of it: every request meets the same until somebody acts), ``platform`` (no answer, or one that
        says nothing of the file, as a wrong address gives: the next request may meet the same), or ``unclear``.
    """
    if isinstance(error, InvalidRequestError):
        return "media"
    if isinstance(error, UploadError):
        return "unclear" if error.passing else "media"
    if isinstance(error, ConnectionFailedError):
        return "platform"
    if not isinstance(error, ApiError) or isinstance(error, UnreadableResponseError) or error.status_code is None:
        return "unclear"
    if error.code in _ACCOUNT_CODES or error.status_code in _ACCOUNT_STATUSES:
        return "account"
    if error.status_code in _MEDIA_STATUSES and error.code not in _PLATFORM_CODES:
        return "media"
    return "platform"
