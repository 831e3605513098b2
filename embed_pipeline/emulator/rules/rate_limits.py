"""Rate limits: requests, media seconds and tokens per window, with the platform's plans and headers."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.errors import ConfigurationError

WINDOWS = {"minute": 60, "hour": 3600, "day": 86400}
_MEDIA = "media_minutes_per_"
_TOKENS = "tokens_per_"
Category = Literal["embed", "text_image", "upload"]
_COUNTED: dict[Category, str] = {
    "embed": "requests_per_",
    "text_image": "text_image_requests_per_",
    "upload": "uploads_per_",
}

PLANS: dict[str, dict[str, float]] = {
    "none": {},
    "free": {
        "requests_per_minute": 25,
        "requests_per_day": 3000,
        "media_minutes_per_hour": 600,
        "media_minutes_per_day": 3000,
        "text_image_requests_per_minute": 600,
        "text_image_requests_per_day": 3000,
        "uploads_per_minute": 60,
        "uploads_per_day": 3000,
    },
    "tier2": {
        "requests_per_minute": 50,
        "requests_per_day": 6000,
        "media_minutes_per_hour": 1200,
        "media_minutes_per_day": 6000,
        "text_image_requests_per_minute": 1200,
        "text_image_requests_per_day": 12000,
        "uploads_per_minute": 120,
        "uploads_per_day": 6000,
    },
    "tier3": {
        "requests_per_minute": 75,
        "requests_per_day": 9000,
        "media_minutes_per_hour": 2400,
        "media_minutes_per_day": 12000,
        "text_image_requests_per_minute": 2400,
        "text_image_requests_per_day": 30000,
        "uploads_per_minute": 240,
        "uploads_per_day": 12000,
    },
}
PLANS["tier1"] = PLANS["free"]
"""What the platform documented in July 2026; each may be overridden. No plan limits tokens: the figures are unknown."""


def limits_of(plan: str, overrides: Mapping[str, float]) -> dict[str, float]:
    """Work out the limits in force.

    Args:
        plan: One of `PLANS`.
        overrides: Limits that replace those of the plan: `requests_per_` (for audio, video and tasks),
            `text_image_requests_per_`, `uploads_per_`, `media_minutes_per_` or `tokens_per_`, followed by `minute`,
            `hour` or `day`.

    Raises:
        ConfigurationError: If the plan or a limit is not known.
    """
    if plan not in PLANS:
        raise ConfigurationError(f"The plan {plan!r} is not known; choose one of {', '.join(PLANS)}.")
    known = [f"{what}{window}" for what in (*_COUNTED.values(), _MEDIA, _TOKENS) for window in WINDOWS]
    for name, value in overrides.items():
        if name not in known:
            raise ConfigurationError(f"The limit {name!r} is not known; known are {', '.join(known)}.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ConfigurationError(f"The limit {name} must be a number that is not negative, not {value!r}.")
    return {**PLANS[plan], **overrides}


@dataclass
class _Window:
    """One limit and its spent part. Amounts are requests, media seconds or tokens, times epoch milliseconds."""

    name: str
    limit: float
    length_ms: int
    ends_at: int = 0
    used: float = 0.0

    def at(self, now: int) -> _Window:
        if now >= self.ends_at:
            # A window opens with the first request after the last one ended.
            self.ends_at, self.used = now + self.length_ms, 0.0
        return self

    @property
    def remaining(self) -> float:
        return max(0.0, self.limit - self.used)


@dataclass(frozen=True)
class Decision:
    """The limiter's answer to a request.

    Args:
        allowed: Whether it may pass.
        headers: Headers of the answer, whether or not it may.
        message: Why it may not.
        retry_after_sec: Seconds until it may.
    """

    allowed: bool
    headers: dict[str, str]
    message: str = ""
    retry_after_sec: int = 0


class RateLimiter:
    """Counts requests and media; safe to call from any thread.

    Args:
        limits: What `limits_of` returned.
        reset_unit: Whether `-Reset` headers hold an epoch second or the seconds that remain.
        old_headers: Whether the older set of headers on requests comes too; its reset is an epoch second always.
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        reset_unit: Literal["epoch", "delta"] = "epoch",
        *,
        old_headers: bool = False,
    ) -> None:
        self._lock = threading.Lock()
        self._old_headers = old_headers
        self._reset_unit = reset_unit
        self.replace(limits)

    def replace(self, limits: Mapping[str, float]) -> None:
        """Put other limits in force; nothing of them is spent yet."""
        with self._lock:
            self.limits = dict(limits)
            self._windows = [
                _Window(name, limit * (60 if name.startswith(_MEDIA) else 1), WINDOWS[name.rpartition("_")[2]] * 1000)
                for name, limit in self.limits.items()
            ]

    @property
    def counts_media(self) -> bool:
        """True if any limit is on media or on tokens."""
        return any(window.name.startswith((_MEDIA, _TOKENS)) for window in self._windows)

    def request(self, category: Category, now: int) -> Decision:
        """Count a request, unless a limit is spent: then it is refused and not counted.

        Args:
            category: Which budget it draws on.
            now: Epoch milliseconds.
        """
        # Each budget of requests has amounts that are spent beside it.
        amounts = {"embed": (_MEDIA, _TOKENS), "text_image": (_TOKENS,), "upload": ()}[category]
        with self._lock:
            requests = self._at(_COUNTED[category], now)
            media, tokens = (self._at(name, now) if name in amounts else [] for name in (_MEDIA, _TOKENS))
            checked = requests + media + tokens
            if not checked:
                return Decision(True, {})
            spent = [window for window in checked if window.used >= window.limit]
            if not spent:
                for window in requests:
                    window.used += 1
            headers = self._headers({"Duration": media, "Request": requests, "Token": tokens}, now)
            if not spent:
                return Decision(True, headers)
            last = max(spent, key=lambda window: window.ends_at)
            wait = math.ceil((last.ends_at - now) / 1000)
            what = f"{self.limits[last.name]:g} {last.name.replace('_', ' ')}"
            message = f"Too many requests. The limit of {what} is reached; try again in {wait} seconds."
            return Decision(False, {**headers, "Retry-After": str(wait)}, message, wait)

    def media(self, seconds: float, now: int) -> None:
        """Count the media of a task; what crosses a limit is still served, what comes after it is not."""
        self._spend(_MEDIA, seconds, now)

    def tokens(self, count: int, now: int) -> None:
        """Count the input tokens of what was embedded, as its media are counted."""
        self._spend(_TOKENS, count, now)

    def _spend(self, what: str, amount: float, now: int) -> None:
        with self._lock:
            for window in self._at(what, now):
                window.used += amount

    def _at(self, what: str, now: int) -> list[_Window]:
        return [window.at(now) for window in self._windows if window.name.startswith(what)]

    def _headers(self, dimensions_of: Mapping[str, list[_Window]], now: int) -> dict[str, str]:
        """Describe the tightest window of each dimension; media in seconds, as seen on the platform."""
        headers, dimensions = {}, []
        for dimension, windows in dimensions_of.items():
            if windows:
                tightest = min(windows, key=lambda window: window.remaining / window.limit if window.limit else 0.0)
                reset = tightest.ends_at if self._reset_unit == "epoch" else tightest.ends_at - now
                prefix = f"X-RateLimit-{dimension}"
                headers[f"{prefix}-Limit"] = f"{tightest.limit:.0f}"
                headers[f"{prefix}-Remaining"] = f"{math.floor(tightest.remaining)}"
                headers[f"{prefix}-Reset"] = str(math.ceil(reset / 1000))
                dimensions.append(dimension)
                if dimension == "Request" and self._old_headers:
                    headers["X-Ratelimit-Limit"] = f"{tightest.limit:.0f}"
                    headers["X-Ratelimit-Remaining"] = f"{math.floor(tightest.remaining)}"
                    headers["X-Ratelimit-Used"] = f"{tightest.used:.0f}"
                    headers["X-Ratelimit-Reset"] = str(math.ceil(tightest.ends_at / 1000))
        return {"X-RateLimit-Dimensions": ",".join(dimensions), **headers}


def limit_refusal(decision: Decision) -> Refusal:
    """Write what the limits do not allow as the platform answers it."""
    details = {"retryAfter": str(decision.retry_after_sec)}
    return Refusal(decision.message, code="too_many_requests", status=429, details=details, headers=decision.headers)
