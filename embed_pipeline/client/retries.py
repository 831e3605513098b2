"""Retries as data: one value says what is tried again, how often and how long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """What is sent again, how often, and how long is waited in between.

    A create is resent only where nothing was created: after one of ``create_statuses``, after a connection that never
    came about, and after an unknown outcome once the list has shown that no task exists. After an answer (5xx) the list
    is read ``len(settle_delays_sec)`` times. After a timeout or a lost connection the platform may still carry the
    request out: it stays in doubt until its deadline and ``doubt_margin_sec`` have passed since it was sent.

    Attributes:
        max_attempts: How often one request is sent at most, the first time included.
        read_statuses: Statuses after which a read is sent again.
        create_statuses: Statuses after which a create is sent again; only those that created nothing belong here.
        retry_connection_errors: Whether a connection that was refused, reset or timed out is tried again.
        initial_delay_sec: The first wait, in seconds.
        multiplier: How much longer each wait is than the one before.
        max_delay_sec: The longest wait of our own choosing, in seconds.
        jitter: The share of a wait that is left to chance, 0 to 1, so that many clients do not come back at once.
        max_wait_sec: The longest single wait, in seconds, that the platform or a limit may ask for; beyond it the call
            raises an error that says when to come back.
        settle_delays_sec: Waits in seconds before each look into the list after a create with an unknown outcome.
        doubt_margin_sec: How long after its deadline, in seconds, a create without an answer may still be carried out.
    """

    max_attempts: int = 5
    read_statuses: frozenset[int] = frozenset({408, 425, 429, 500, 502, 503, 504})
    create_statuses: frozenset[int] = frozenset({429})
    retry_connection_errors: bool = True
    initial_delay_sec: float = 0.5
    multiplier: float = 2.0
    max_delay_sec: float = 30.0
    jitter: float = 0.25
    max_wait_sec: float = 120.0
    settle_delays_sec: tuple[float, ...] = (0.5, 2.0, 5.0)
    doubt_margin_sec: float = 120.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}: the first attempt counts too, so give 1 or more")
        if not self.settle_delays_sec:
            raise ValueError("settle_delays_sec is empty: without one look into the list a create might be paid twice")
        if any(status < 400 or status >= 500 for status in self.create_statuses):
            raise ValueError("create_statuses may hold 4xx only: any other answer may have created a task")

    @classmethod
    def none(cls) -> RetryPolicy:
        """Nothing is sent twice."""
        return cls(max_attempts=1)

    def delay(self, attempt: int, *, retry_after_sec: float | None = None, chance: float = 0.0) -> float:
        """The wait in seconds after a failed attempt.

        Args:
            attempt: Number of the attempt that failed, from 1.
            retry_after_sec: What the platform asked for, in seconds; it is honoured, with jitter only on top.
            chance: A number from 0 to 1 that places the wait within the jitter.
        """
        if retry_after_sec is not None:
            return retry_after_sec + min(1.0, retry_after_sec) * self.jitter * chance
        try:
            own = self.initial_delay_sec * self.multiplier ** (attempt - 1)
        except OverflowError:
            own = self.max_delay_sec
        own = min(self.max_delay_sec, own)
        return own * (1.0 - self.jitter * chance)


def read_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long the platform asks to wait, in seconds, or None if it does not say, or says what cannot be read.

    Args:
        headers: Response headers with lower-case names. ``Retry-After-Ms`` (milliseconds) goes before ``Retry-After``
            (seconds, or an HTTP date).
        now: The present, with a time zone; a date is counted from here, or from the answer's own ``Date`` header,
            which spares the difference between two clocks.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    at = read_http_date(value)
    if at is None:
        return None
    return max(0.0, (at - (read_http_date(headers.get("date")) or now)).total_seconds())


def read_http_date(value: str | None) -> datetime | None:
    """An HTTP date such as ``Sun, 22 Nov 2026 07:00:00 GMT`` as a UTC datetime, or None if it is none."""
    if not value:
        return None
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _number(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
