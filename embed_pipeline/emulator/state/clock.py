"""The emulator's clock, which a test may move, and the ids that begin with its time."""

from __future__ import annotations

import itertools
import re
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


_process = secrets.token_hex(5)
_counter = itertools.count(secrets.randbelow(1 << 23))


class Clock:
    """Epoch time in milliseconds; it follows the machine's clock plus an offset, or stands still between advances.

    Args:
        frozen_at: Epoch milliseconds to stand still at. None lets time run.
        skew_sec: Seconds that it is ahead of the machine's clock, or (negative) behind.
    """

    def __init__(self, frozen_at: int | None = None, skew_sec: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._offset_ms = round(skew_sec * 1000)
        self._frozen_at = frozen_at
        # Called with the new time after every advance.
        self.listeners: list[Callable[[int], None]] = []

    def now(self) -> int:
        """Return the current time as epoch milliseconds."""
        base = time.time_ns() // 1_000_000 if self._frozen_at is None else self._frozen_at
        return base + self._offset_ms

    def advance(self, seconds: float) -> int:
        """Move the clock forward.

        Args:
            seconds: How far; a retention of seven days is passed with 604,801.

        Returns:
            The new time as epoch milliseconds.

        Raises:
            ValueError: If `seconds` is negative: tasks that became ready must stay ready.
        """
        if not 0 <= seconds < 10**10:
            raise ValueError(f"the clock moves forward only, by less than 10**10 seconds; got {seconds!r}")
        with self._lock:
            self._offset_ms += round(seconds * 1000)
        now = self.now()
        for listener in self.listeners:
            listener(now)
        return now


def to_rfc3339(epoch_ms: int) -> str:
    """Write a time the way the platform does: UTC, milliseconds, `Z`."""
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{epoch_ms % 1000:03d}Z"


def from_rfc3339(text: str) -> int:
    """Read a time as clients send it.

    Args:
        text: Such as `2024-09-26T10:29:19Z`; fractions and numeric offsets are understood.

    Returns:
        Epoch milliseconds.

    Raises:
        ValueError: If the text is not an RFC 3339 date and time with a zone.
    """
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"{text!r} is not an RFC 3339 date and time such as 2024-09-26T10:29:19Z")
    try:
        return round(datetime.fromisoformat(text.upper()).timestamp() * 1000)
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range") from error


def new_id(now_ms: int) -> str:
    """Return a new id: four bytes of epoch seconds, five of this process, three of a counter."""
    return f"{now_ms // 1000 & 0xFFFFFFFF:08x}{_process}{next(_counter) & 0xFFFFFF:06x}"
