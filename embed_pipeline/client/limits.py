"""The plan's limits, and the one budget that all threads and tasks of a process share.

Sliding windows of what was spent are exact whichever kind of window the platform uses, take a few lines, and can be
corrected by what the platform's headers say. The libraries that were considered either block inside the library or
cannot be told afterwards that somebody else spent something, so they could not serve threads and asyncio alike.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import ClassVar

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
Category = str
EMBED, UPLOAD = "embed", "upload"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a plan allows; None means that nothing is known and only the platform's answers count.

    The figures belong to an organisation: leave room if others use it too.

    Attributes:
        requests_per_minute: Creates per minute.
        requests_per_day: Creates per 24 hours.
        media_minutes_per_hour: Minutes of media per hour.
        media_minutes_per_day: Minutes of media per 24 hours.
        uploads_per_minute: Requests to create assets per minute.
        uploads_per_day: Requests to create assets per 24 hours.
    """

    requests_per_minute: float | None = None
    requests_per_day: float | None = None
    media_minutes_per_hour: float | None = None
    media_minutes_per_day: float | None = None
    uploads_per_minute: float | None = None
    uploads_per_day: float | None = None

    PLANS: ClassVar[tuple[str, ...]] = ("free", "tier-1", "tier-2", "tier-3", "unlimited")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: a limit is greater than 0, or None")

    @classmethod
    def plan(cls, name: str) -> Limits:
        """The limits published in July 2026: ``free``, ``tier-1``, ``tier-2``, ``tier-3``, ``unlimited``."""
        figures = {
            "free": (25, 3000, 600, 3000, 60, 3000),
            "tier-1": (25, 3000, 600, 3000, 60, 3000),
            "tier-2": (50, 6000, 1200, 6000, 120, 6000),
            "tier-3": (75, 9000, 2400, 12000, 240, 12000),
            "unlimited": (None,) * 6,
        }
        if name not in figures:
            raise ValueError(f"there is no plan {name!r}; the plans are {', '.join(cls.PLANS)}")
        minute, day, hourly, daily, upload_minute, upload_day = figures[name]
        return cls(
            requests_per_minute=minute,
            requests_per_day=day,
            media_minutes_per_hour=hourly,
            media_minutes_per_day=daily,
            uploads_per_minute=upload_minute,
            uploads_per_day=upload_day,
        )


@dataclass
class _Window:
    """What was spent within the last ``length`` seconds, against ``limit``."""

    length: float
    limit: float
    spent: deque[tuple[float, float]] = field(default_factory=deque)
    total: float = 0.0

    def forget(self, now: float) -> None:
        """Drops what has left the window; ``now`` is the present, never a time to come."""
        while self.spent and self.spent[0][0] <= now - self.length:
            self.total -= self.spent.popleft()[1]
        if not self.spent:
            self.total = 0.0

    def wait(self, at: float, cost: float) -> float:
        """Seconds after ``at`` until ``cost`` fits; what exceeds the limit fits into an empty window."""
        excess = self.total + min(cost, self.limit) - self.limit
        # Sums of many durations carry rounding errors, which must not cost a whole window.
        tolerance = self.limit * 1e-9
        if excess <= tolerance:
            return 0.0
        for spent_at, amount in self.spent:
            excess -= amount
            if excess <= tolerance:
                return max(0.0, spent_at + self.length - at)
        return self.length

    def spend(self, at: float, cost: float) -> None:
        if self.spent and at < self.spent[-1][0]:
            at = self.spent[-1][0]
        self.spent.append((at, cost))
        self.total += cost

    def correct(self, now: float, used: float) -> None:
        """Takes over that more was spent than we know of: others use the same organisation."""
        self.forget(now)
        if used > self.total:
            self.spend(now, used - self.total)


class Budget:
    """What may still be spent. Never sleeps: it says how long to wait, so that threads and tasks can share it.

    Args:
        limits: The plan's limits.
    """

    _shared: ClassVar[dict[tuple[str, str, Limits], Budget]] = {}
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._held_until: dict[Category, float] = {}
        self._requests: dict[Category, dict[float, _Window]] = {EMBED: {}, UPLOAD: {}}
        self._media: dict[float, _Window] = {}
        for category, length, limit in (
            (EMBED, MINUTE, limits.requests_per_minute),
            (EMBED, DAY, limits.requests_per_day),
            (UPLOAD, MINUTE, limits.uploads_per_minute),
            (UPLOAD, DAY, limits.uploads_per_day),
        ):
            if limit is not None:
                self._requests[category][length] = _Window(length, limit)
        for length, limit in ((HOUR, limits.media_minutes_per_hour), (DAY, limits.media_minutes_per_day)):
            if limit is not None:
                self._media[length] = _Window(length, limit * 60.0)

    @classmethod
    def shared(cls, base_url: str, api_key: str, limits: Limits) -> Budget:
        """The process's one budget for this platform, key and limits. The key itself is not kept."""
        who = (base_url, hashlib.sha256(api_key.encode()).hexdigest(), limits)
        with cls._shared_lock:
            return cls._shared.setdefault(who, cls(limits))

    def reserve(self, category: Category, now: float, media_sec: float = 0.0, *, max_wait_sec: float) -> float:
        """Takes one request, and its media, out of the budget.

        Args:
            category: ``embed`` or ``upload``.
            now: A monotonic clock, seconds.
            media_sec: Length of the media, seconds; 0 if it is not known.
            max_wait_sec: The longest wait that is acceptable.

        Returns:
            How long to wait before sending, in seconds. If that is more than ``max_wait_sec``, nothing was taken.
        """
        with self._lock:
            windows = [(window, 1.0) for window in self._requests[category].values()]
            if media_sec > 0:
                windows += [(window, media_sec) for window in self._media.values()]
            at = max(now, self._held_until.get(category, now))
            for window, cost in windows:
                window.forget(now)
                # Places in the future that others have reserved count as spent, so whoever comes later goes later.
                at = max(at, at + window.wait(at, cost))
            if at - now <= max_wait_sec:
                for window, cost in windows:
                    window.spend(at, cost)
            return at - now

    def refund_media(self, now: float, media_sec: float) -> None:
        """Gives media back that the platform refused, because it counts only what it processes."""
        with self._lock:
            for window in self._media.values():
                window.spend(now, -min(media_sec, window.total))

    def hold(self, category: Category, until: float) -> None:
        """Nobody sends before this time (monotonic clock): the platform answered 429."""
        with self._lock:
            self._held_until[category] = max(self._held_until.get(category, until), until)

    def learn(self, category: Category, headers: Mapping[str, str], now: float) -> None:
        """Corrects the budget by the headers of an answer; what cannot be read is passed over.

        A limit that equals a known one corrects that window. Otherwise the platform's figure is taken as a new window:
        requests per minute if small, else per day; media per hour up to ten hours of media and more only per day.
        """
        with self._lock:
            requests = self._requests[category]
            for limit_name, remaining_name in (
                ("x-ratelimit-request-limit", "x-ratelimit-request-remaining"),
                ("x-ratelimit-limit", "x-ratelimit-remaining"),
            ):
                found = _pair(headers, limit_name, remaining_name)
                if found is not None:
                    window = _window_of(requests, found[0], MINUTE if found[0] <= 1000 else DAY)
                    window.correct(now, found[0] - found[1])
                    break
            found = _pair(headers, "x-ratelimit-duration-limit", "x-ratelimit-duration-remaining")
            if found is not None and category == EMBED:
                length = HOUR if found[0] <= 2400 * 60 else DAY
                _window_of(self._media, found[0], length).correct(now, found[0] - found[1])


def _window_of(windows: dict[float, _Window], limit: float, otherwise: float) -> _Window:
    for window in windows.values():
        if abs(window.limit - limit) < 0.5:
            return window
    window = windows.setdefault(otherwise, _Window(otherwise, limit))
    window.limit = limit
    return window


def _pair(headers: Mapping[str, str], limit_name: str, remaining_name: str) -> tuple[float, float] | None:
    try:
        limit, remaining = float(headers[limit_name]), float(headers[remaining_name])
    except (KeyError, ValueError):
        return None
    return (limit, remaining) if 0 < limit < 1e9 and 0 <= remaining <= limit else None


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


@dataclass(frozen=True, kw_only=True)
class PollPolicy:
    """How often is asked whether something is finished.

    Attributes:
        initial_sec: The first interval, seconds.
        multiplier: How much longer each interval is than the one before.
        max_sec: The longest interval, seconds.
    """

    initial_sec: float = 2.0
    multiplier: float = 1.5
    max_sec: float = 60.0

    def __post_init__(self) -> None:
        if not (0 < self.initial_sec <= self.max_sec and self.multiplier >= 1):
            raise ValueError("a poll policy needs 0 < initial_sec <= max_sec and multiplier >= 1")

    def interval(self, round_number: int) -> float:
        """The interval after a round, counted from 1, in seconds."""
        try:
            return min(self.max_sec, self.initial_sec * self.multiplier ** (round_number - 1))
        except OverflowError:
            return self.max_sec
