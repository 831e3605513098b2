"""Embedding in child processes, so that no file can crash, hang or bloat the process that serves."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from embed_pipeline.emulator.engine.failure import NOT_COMPLETED, TASK_FAILED, TOO_LARGE, MediaFailure
from embed_pipeline.emulator.engine.request import EmbedRequest, EngineLimits, EngineResult, Progress, no_progress
from embed_pipeline.emulator.engine.wire import (
    WireError,
    pack_limits,
    pack_request,
    receive,
    send,
    unpack_result,
)
from embed_pipeline.errors import ConfigurationError

_FILES_PER_WORKER = 500
"""After this many files a worker makes room for a new one: decoders leak."""

_START_SEC = 60.0
_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")


class _GoneError(Exception):
    """The worker has ended, or has sent something that is no message."""


class Worker:
    """One child process and what is needed to talk to it; used by one thread at a time."""

    def __init__(self) -> None:
        self.files = 0
        self._messages: queue.SimpleQueue[tuple[dict[str, Any], list[np.ndarray]] | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "embed_pipeline.emulator.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        threading.Thread(target=self._listen, name="embed-worker-answers", daemon=True).start()
        with contextlib.suppress(queue.Empty):
            message = self._messages.get(timeout=_START_SEC)
            if message is not None and message[0].get("kind") == "ready":
                return
        self.kill()
        raise ConfigurationError(
            f"the worker process that embeds media did not start; run '{sys.executable} -m"
            " embed_pipeline.emulator.engine.worker' to see why"
        )

    def embed(
        self, path: Path, request: EmbedRequest, engine: str, limits: EngineLimits, progress: Progress
    ) -> EngineResult:
        """Have the child embed one file.

        Raises:
            MediaFailure: The file cannot be embedded; after a crash, a hang or a lack of memory the child is gone.
            ConfigurationError: There is no such engine.
        """
        self.files += 1
        deadline = time.monotonic() + limits.wall_sec
        try:
            self._ask(path, request, engine, limits)
            while True:
                wait = min(limits.stall_sec, deadline - time.monotonic())
                head, arrays = self._next(max(0.0, wait))
                kind = head.get("kind")
                if kind == "progress":
                    progress(float(head["media_sec"]))
                elif kind == "result":
                    return unpack_result(head, arrays)
                elif kind == "configuration":
                    raise ConfigurationError(str(head["message"]))
                elif kind == "failure":
                    raise MediaFailure(
                        str(head["message"]), permanent=bool(head["permanent"]), detail=str(head["detail"])
                    )
                elif kind == "memory":
                    self.kill()
                    raise MediaFailure(TOO_LARGE, detail=f"more than {limits.memory_bytes} bytes of memory were needed")
                else:
                    raise MediaFailure(TASK_FAILED, permanent=False, detail=str(head.get("detail")))
        except queue.Empty:
            self.kill()
            raise MediaFailure(NOT_COMPLETED, permanent=False, detail="it took too long") from None
        except (_GoneError, WireError, KeyError, ValueError, TypeError, OSError) as error:
            self.kill()
            detail = f"the worker process ended with code {self._process.returncode} ({error!r})"
            raise MediaFailure(NOT_COMPLETED, permanent=False, detail=detail) from error

    @property
    def alive(self) -> bool:
        """True if the child can take another file."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the child at once."""
        self._process.kill()
        with contextlib.suppress(OSError):
            cast("BinaryIO", self._process.stdin).close()
        self._process.wait()

    def _ask(self, path: Path, request: EmbedRequest, engine: str, limits: EngineLimits) -> None:
        send(
            cast("BinaryIO", self._process.stdin),
            {
                "path": str(path.absolute()),
                "engine": engine,
                "limits": pack_limits(limits),
                "request": pack_request(request),
            },
        )

    def _next(self, timeout: float) -> tuple[dict[str, Any], list[np.ndarray]]:
        message = self._messages.get(timeout=timeout)
        if message is None:
            raise _GoneError
        return message

    def _listen(self) -> None:
        pipe = cast("BinaryIO", self._process.stdout)
        with contextlib.suppress(OSError, WireError, MemoryError), pipe:
            while (message := receive(pipe)) is not None:
                self._messages.put(message)
        self._messages.put(None)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in _SECRETS)}
    kept["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    # A child uses the cores for decoding; threads of the linear algebra would only cost it address space.
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class WorkerPool:
    """As many workers as there are cores, started when needed and used again.

    Args:
        size: How many files are embedded at the same time at most; further callers wait.
    """

    def __init__(self, size: int) -> None:
        self._turns = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """Lend a worker; it comes back when done, or a new one takes its place."""
        with self._turns:
            worker = self._lend()
            try:
                yield worker
            finally:
                self._take_back(worker)

    def close(self) -> None:
        """End all workers at once; what they were at fails as not completed."""
        with self._lock:
            workers, self._all = self._all, set()
            self._idle.clear()
        for worker in workers:
            worker.kill()

    def _lend(self) -> Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                self._all.discard(worker)
        worker = Worker()
        with self._lock:
            self._all.add(worker)
        return worker

    def _take_back(self, worker: Worker) -> None:
        with self._lock:
            if worker in self._all and worker.alive and worker.files < _FILES_PER_WORKER:
                self._idle.append(worker)
                return
            self._all.discard(worker)
        worker.kill()


_POOL = WorkerPool(max(1, min(8, os.cpu_count() or 1)))
atexit.register(_POOL.close)


def close_workers() -> None:
    """End all worker processes of this process at once; the next `embed_isolated` starts new ones."""
    _POOL.close()


def embed_isolated(
    path: Path,
    request: EmbedRequest,
    *,
    engine: str = "signal",
    limits: EngineLimits = EngineLimits(),  # noqa: B008 - immutable
    progress: Progress = no_progress,
) -> EngineResult:
    """Embed one local media file in a child process, under limits.

    Any thread may call it; there are as many children as cores, and further callers wait for their turn.

    Args:
        path: The media file, whoever it comes from.
        request: What to embed of it.
        engine: Which engine; see `load_engine`.
        limits: What it may cost. Time counts from when its turn has come.
        progress: Called in this thread now and then with the seconds of media done.

    Raises:
        MediaFailure: The file cannot be embedded, or has crashed, stalled or bloated the child.
        ConfigurationError: There is no such engine.
    """
    with _POOL.worker() as worker:
        return worker.embed(Path(path), request, engine, limits, progress)
