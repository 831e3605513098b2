"""Ids as the platform makes them: 24 hex characters that begin with the time."""

from __future__ import annotations

import itertools
import secrets

_process = secrets.token_hex(5)
_counter = itertools.count(secrets.randbelow(1 << 23))


def new_id(now_ms: int) -> str:
    """Return a new id: four bytes of epoch seconds, five of this process, three of a counter."""
    return f"{now_ms // 1000 & 0xFFFFFFFF:08x}{_process}{next(_counter) & 0xFFFFFF:06x}"
