"""Upkeep: what is past its time is deleted while the emulator runs, and the journal is brought to disk."""

from __future__ import annotations

import logging
import sqlite3
import threading
from typing import TYPE_CHECKING

from embed_pipeline.emulator.state.uploads import SESSION_SEC

if TYPE_CHECKING:
    from embed_pipeline.emulator.platform import Platform

_log = logging.getLogger(__name__)
_PAUSE_SEC = 1.0
_SWEEP_EVERY_MS = 10 * 60 * 1000
_AT_ONCE = 16
_PAGES_AT_ONCE = 4096


class Upkeep:
    """A thread that looks at the emulator's clock: a clock that is moved forward is noticed within a second.

    Args:
        platform: What it keeps in order.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embed-upkeep", daemon=True)
        self._swept_at: int | None = None

    def start(self) -> None:
        """Delete what a process that was killed left half done, then look after the rest every second."""
        platform = self._platform
        kept = {path.name for path in platform.media.iterdir()} & platform.store.unfinished_ids()
        for path in platform.media.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        known = platform.assets.ids()
        for path in platform.assets.folder.iterdir():
            if path.name.partition(".")[0] not in known:
                path.unlink(missing_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def sweep(self) -> None:
        """Delete expired results and upload sessions, a few at a time so that requests come in between."""
        platform, now = self._platform, self._platform.clock.now()
        self._swept_at = now
        retention = round(platform.settings.retention_sec * 1000)
        while not self._stopping.is_set():
            gone = platform.store.drop_results_before(now - retention, most=_AT_ONCE)
            platform.bodies.drop(gone)
            platform.give_back(_PAGES_AT_ONCE)
            if len(gone) < _AT_ONCE:
                break
        while not self._stopping.is_set():
            if platform.uploads.expire(now, most=_AT_ONCE) < _AT_ONCE:
                break
        platform.uploads.forget_before(now - SESSION_SEC * 1000 - retention)
        while not self._stopping.is_set() and platform.give_back(_PAGES_AT_ONCE):
            pass

    def _run(self) -> None:
        while True:
            try:
                self._platform.journal.flush()
                self._platform.creation.create_due(self._platform.clock.now())
                if self._swept_at is None or self._platform.clock.now() - self._swept_at >= _SWEEP_EVERY_MS:
                    self.sweep()
            except sqlite3.Error:
                if self._stopping.is_set():
                    return
                _log.exception("The emulator's upkeep could not use its database; it tries again in a second.")
            if self._stopping.wait(_PAUSE_SEC):
                return
