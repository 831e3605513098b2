"""What a failure means for the question whether to try again: that of a task, or that of a request."""

from __future__ import annotations

import re
from typing import Literal

from embed_pipeline.client.errors import (
    ApiError,
    ConnectionFailedError,
    InvalidRequestError,
    UnreadableResponseError,
    UploadError,
)

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
