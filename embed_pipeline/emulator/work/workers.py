"""The workers: threads that take queued tasks, bring their media here, have them embedded and keep the outcome."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from embed_pipeline.emulator.control.behaviour import Timing
from embed_pipeline.emulator.engine.failure import REQUEST_INVALID, UNPROCESSABLE
from embed_pipeline.emulator.rules.bounds import duration_fault, picture_fault
from embed_pipeline.emulator.rules.request import AcceptedRequest
from embed_pipeline.emulator.rules.tokens import usage_of
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.emulator.state.bodies import ResultBodies
from embed_pipeline.emulator.state.clock import Clock
from embed_pipeline.emulator.state.results import EmbeddingResult, as_answered
from embed_pipeline.emulator.state.tasks import Task, TaskStore
from embed_pipeline.emulator.work.compute import Compute, reads_sources
from embed_pipeline.emulator.work.probe import UnreadableMediaError, read_header_isolated
from embed_pipeline.emulator.work.sources import SourceError, local_file

_log = logging.getLogger(__name__)
_AHEAD_PAUSE = 3.0
_FAILED = "The embedding task failed. Please try again later."


def release_time(task: Task, duration_sec: float | None, timing: Timing) -> int:
    """Return the time from which on a task may show its outcome.

    Args:
        task: The task.
        duration_sec: Length of its media, or None if that never became known.
        timing: What the settings ask for.

    Returns:
        Epoch milliseconds. Polls and commands are counted elsewhere.
    """
    seconds: float = max(
        timing.after_sec, timing.per_media_sec * (duration_sec or 0.0), task.effects.get("delay_sec", 0.0)
    )
    return task.created_at + int(seconds * 1000)


def check_duration(seconds: float, shortest: float, longest: float) -> None:
    """Refuse a media file that is too short or too long, with the figures the platform would name.

    Raises:
        SourceError: If it is.
    """
    fault = duration_fault(seconds, shortest, longest)
    if fault is not None:
        raise SourceError(fault.message)


def embedded_seconds(request: AcceptedRequest, duration_sec: float) -> float:
    """Return how many seconds of a file of a given length a request has embedded."""
    end = duration_sec if request.end_sec is None else min(request.end_sec, duration_sec)
    return max(0.0, end - (request.start_sec or 0.0))


class Workers:
    """A few threads that empty the queue of the task store.

    Args:
        store: Where tasks wait and outcomes go.
        settings: How many threads, which limits.
        compute: What embeds a file.
        clock: What time it is.
        timing: When finished tasks may show, at this moment.
        media: The folder of media that came inside requests or were downloaded.
        asset_path: Where the file of an uploaded asset lies, or None if it is not ready.
        on_done: Called with every computed task, its rows and its usage.
        bodies: Where results are written ahead while no task waits.
    """

    def __init__(
        self,
        store: TaskStore,
        settings: EmulatorSettings,
        compute: Compute,
        clock: Clock,
        timing: Callable[[], Timing],
        media: Path,
        asset_path: Callable[[str], Path | None],
        on_done: Callable[[Task, EmbeddingResult, dict[str, Any] | None], None],
        bodies: ResultBodies,
    ) -> None:
        self._store = store
        self._settings = settings
        self._compute = compute
        self._clock = clock
        self._timing = timing
        self._media = media
        self._asset_path = asset_path
        self._on_done = on_done
        self._bodies = bodies
        self._wake = threading.Condition()
        self._ahead = threading.Lock()
        self._news = 0
        self._stopping = False
        count = settings.workers or max(1, os.cpu_count() or 1)
        self._threads = [
            threading.Thread(target=self._run, name=f"embed-worker-{number}", daemon=True) for number in range(count)
        ]

    def start(self) -> None:
        """Begin to empty the queue."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Wake a worker: a task was queued."""
        with self._wake:
            self._news += 1
            self._wake.notify()

    def stop(self, timeout: float = 2.0) -> None:
        """Take no further task, and wait a while for those in work; what is not done by then is done after a restart.

        Args:
            timeout: How long to wait in all, in seconds.
        """
        with self._wake:
            if self._stopping:
                return
            self._stopping = True
            self._wake.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout / len(self._threads))

    def _run(self) -> None:
        while not self._stopping:
            seen = self._news
            try:
                task = self._store.claim()
                if task is not None:
                    self._work(task)
                    continue
                took = self._write_ahead()
            except sqlite3.Error:
                if self._stopping:
                    return
                _log.exception("A worker could not use the task store; it goes on in a second.")
                seen, took = -1, 0.0
            with self._wake:
                if not self._stopping and (self._news == seen or seen < 0):
                    self._wake.wait(timeout=_AHEAD_PAUSE * took or 1.0)

    def _write_ahead(self) -> float:
        """Write one result before it is asked for; returns the seconds it took, or 0 if there was nothing to do."""
        # One thread at a time, and with pauses: requests come first.
        if not self._ahead.acquire(blocking=False):
            return 0.0
        try:
            begin = time.perf_counter()
            return time.perf_counter() - begin if self._bodies.write_ahead() else 0.0
        finally:
            self._ahead.release()

    def _work(self, task: Task) -> None:
        timing = self._timing()
        forced = task.effects.get("fail")
        try:
            if forced is not None:
                raise SourceError(str(forced))
            result = self._embed(task)
        except SourceError as failure:
            now = self._clock.now()
            self._store.fail(task.id, failure.message, release_at=release_time(task, None, timing), now=now)
        except sqlite3.Error:
            raise
        except Exception:
            # An engine's own mistake ends the task, not the worker.
            _log.exception("Task %s failed for a reason of the emulator's own.", task.id)
            self._store.fail(task.id, _FAILED, release_at=task.created_at, now=self._clock.now())
        else:
            usage = usage_of(task.request, embedded_seconds(task.request, result.duration_sec or 0.0))
            self._on_done(task, result, usage)
            release_at = release_time(task, result.duration_sec, timing)
            self._store.finish(task.id, result, release_at=release_at, now=self._clock.now(), usage=usage)
            self._bodies.remember(task)
        if task.request.source_kind == "base64":
            with suppress(OSError):
                (self._media / task.id).unlink()

    def _embed(self, task: Task) -> EmbeddingResult:
        settings, request = self._settings, task.request
        if not reads_sources(settings):
            return as_answered(self._compute(None, request), request, settings.switches)
        path, temporary = local_file(
            request, kept=self._media / task.id, settings=settings, asset_path=self._asset_path
        )
        try:
            self._check_pictures(path, request)
            result = self._compute(path, request)
        finally:
            if temporary:
                path.unlink(missing_ok=True)
        if result.duration_sec is not None:
            check_duration(result.duration_sec, settings.min_duration_sec, settings.max_duration_sec)
        if settings.switches.missing_modality == "fail" and result.missing:
            raise SourceError(REQUEST_INVALID)
        return as_answered(result, request, settings.switches)

    def _check_pictures(self, path: Path, request: AcceptedRequest) -> None:
        """Check a video's resolution against the platform's bounds, unless switched off."""
        if request.input_type != "video" or self._settings.switches.picture_size == "any":
            return
        try:
            header = read_header_isolated(path)
        except UnreadableMediaError:
            return  # The engine fails with the reason.
        if header.width and header.height:
            fault = picture_fault(header.width, header.height)
            if fault is not None:
                raise SourceError(f"{UNPROCESSABLE} ({fault.message})")
