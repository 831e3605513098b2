"""Fingerprints of media files, and the cache that saves reading a file twice."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from embed_pipeline.errors import MediaError
from embed_pipeline.media.files import MediaFile
from embed_pipeline.media.store import ContentState, Store, describe_error

_logger = logging.getLogger(__name__)

#: Hexadecimal digits of a fingerprint: 128 bits, short enough to read and for the value of a Dagster tag.
FINGERPRINT_LENGTH: Final = 32

_CHUNK: Final = 1 << 20

# SQLite takes at least 999 parameters in a statement.
_LOOKUP_SIZE: Final = 500

_CACHE_VERSION: Final = 1

# What threads of this process are reading; for all libraries, because a new one may be made at every tick.
_lock = threading.Lock()
_being_read: set[str] = set()

# Linux stamps files by a clock that ticks every few milliseconds, FAT every two seconds: within that, a second write
# may leave the same stamp behind.
_CLOCK_GRAIN_SEC: Final = 2.0


class FingerprintCache:
    """Fingerprints kept in a small SQLite file. A cache and no state: without it files are read again.

    Several processes may use one file. If the file is broken it is replaced; if it cannot be written, the cache lives
    in memory.

    Args:
        path: The SQLite file, or None for a cache in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._connection = self._connect()

    def get_many(self, files: Iterable[tuple[MediaFile, str]]) -> dict[str, str]:
        """Return the known fingerprints of files.

        Args:
            files: Pairs of file and stamp.

        Returns:
            Fingerprint by partition key, for those that are known with the same stamp.
        """
        wanted = {_address(file): (file.key, stamp) for file, stamp in files}
        return {
            wanted[address][0]: fingerprint
            for address, stamp, fingerprint, _ in self._rows(list(wanted))
            if wanted[address][1] == stamp
        }

    def get_recent(self, files: Iterable[MediaFile], since: float) -> dict[str, str]:
        """Return the fingerprints that were checked lately, without asking the store whether they still hold.

        Args:
            files: The files.
            since: Seconds since 1970; what was last checked earlier is left out.

        Returns:
            Fingerprint by partition key.
        """
        wanted = {_address(file): file.key for file in files}
        return {
            wanted[address]: fingerprint
            for address, _, fingerprint, checked_at in self._rows(list(wanted))
            if checked_at >= since
        }

    def put(self, file: MediaFile, stamp: str, fingerprint: str, checked_at: float) -> None:
        """Store a fingerprint. A failure to write is no error."""
        with self._lock, self._forgiving():
            self._connection.execute(
                "INSERT OR REPLACE INTO fingerprints VALUES (?, ?, ?, ?)",
                (_address(file), stamp, fingerprint, checked_at),
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _rows(self, addresses: Sequence[str]) -> list[tuple[str, str, str, float]]:
        rows: list[tuple[str, str, str, float]] = []
        with self._lock, self._forgiving():
            for start in range(0, len(addresses), _LOOKUP_SIZE):
                part = addresses[start : start + _LOOKUP_SIZE]
                marks = ",".join("?" * len(part))
                rows += self._connection.execute(f"SELECT * FROM fingerprints WHERE file IN ({marks})", part)  # noqa: S608
        return rows

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Treat any failure of the cache as a miss; replace a file that turns out to be broken."""
        try:
            yield
        except sqlite3.OperationalError as error:
            _logger.debug("The cache of fingerprints %s did not answer: %s.", self._path, error)
        except sqlite3.DatabaseError:
            self._connection.close()
            self._discard()
            self._connection = self._connect()

    def _discard(self) -> None:
        _logger.warning("The cache of fingerprints %s is broken; it is replaced.", self._path)
        with suppress(OSError):
            if self._path is not None:
                self._path.unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        for _ in range(2 if self._path is not None else 0):
            try:
                return _prepared(self._path)
            except sqlite3.OperationalError as error:  # locked, read-only, disk full: not the file's own fault
                _logger.warning("Fingerprints are kept in memory only: %s: %s.", self._path, error)
                break
            except sqlite3.DatabaseError:
                self._discard()
            except OSError as error:
                _logger.warning("Fingerprints are kept in memory only: %s: %s.", self._path, describe_error(error))
                break
        return _prepared(None)


def _prepared(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path or ":memory:", timeout=5, isolation_level=None, check_same_thread=False)
    try:
        # Losing the last rows in a power cut costs reading those files again, so waiting for the disk is not worth it.
        connection.execute("PRAGMA synchronous = OFF")
        if connection.execute("PRAGMA user_version").fetchone()[0] != _CACHE_VERSION:
            connection.executescript(
                "BEGIN IMMEDIATE; DROP TABLE IF EXISTS fingerprints;"
                " CREATE TABLE fingerprints"
                " (file TEXT PRIMARY KEY, stamp TEXT, fingerprint TEXT, checked_at REAL) WITHOUT ROWID;"
                f" PRAGMA user_version = {_CACHE_VERSION}; COMMIT"
            )
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _address(file: MediaFile) -> str:
    # Two entries of a manifest may differ in their query only, so the URI alone is not enough.
    return f"{file.uri} {file.key}"


def fingerprint_of_bytes(stream: BinaryIO) -> str:
    """Return the fingerprint of a stream, read to its end: the first 32 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


def fingerprint_of_identity(identity: str) -> str:
    """Return the fingerprint for an identity that the store itself gives (ETag and size)."""
    return hashlib.sha256(identity.encode()).hexdigest()[:FINGERPRINT_LENGTH]


class _Batch:
    """The results of one call of `Fingerprinter.many`; closed when its time is up."""

    def __init__(self, files: Iterable[tuple[MediaFile, ContentState | None]], deadline: float | None) -> None:
        self._deadline = deadline
        self._waiting = iter(list(files))
        self._lock = threading.Lock()
        self._fingerprints: dict[str, str] = {}
        self._problems: list[tuple[MediaFile, MediaError]] = []

    def next(self) -> tuple[MediaFile, ContentState | None] | None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return None
        with self._lock:
            return next(self._waiting, None)

    def add(self, file: MediaFile, outcome: str | MediaError) -> None:
        with self._lock:
            if isinstance(outcome, str):
                self._fingerprints[file.key] = outcome
            else:
                self._problems.append((file, outcome))

    def so_far(self) -> tuple[dict[str, str], list[tuple[MediaFile, MediaError]]]:
        with self._lock:
            return dict(self._fingerprints), list(self._problems)


class Fingerprinter:
    """Source of fingerprints: the identity that the store gives, the cache, or reading the file.

    Args:
        store: Where the files are.
        cache: Fingerprints that are known already.
        recheck_seconds: How long a fingerprint holds without asking again, at a store where asking costs a request
            per file.
        threads: How many files are read at once.
    """

    def __init__(
        self, store: Store, cache: FingerprintCache, *, recheck_seconds: float, threads: int | None = None
    ) -> None:
        self._store = store
        self._cache = cache
        self._recheck_seconds = recheck_seconds
        self._threads = threads or (min(8, (os.cpu_count() or 1) + 1) if store.state_is_cheap else 16)

    def one(self, file: MediaFile) -> str:
        """Return the fingerprint of one file as it is now, however long reading it takes.

        Raises:
            MediaError: If the file is gone, cannot be read, or is being written to.
        """
        return self._find_out(file, None)

    def many(
        self,
        files: Sequence[MediaFile],
        budget_sec: float | None,
        on_problem: Callable[[MediaFile, MediaError], None] | None = None,
    ) -> dict[str, str]:
        """Return the fingerprints that can be had within a time.

        Reading that is under way when the time is up goes on in the background and ends up in the cache, so that even a
        file that takes longer than the budget gets its turn.

        Args:
            files: The files.
            budget_sec: The time in seconds, or None to wait for all.
            on_problem: Called for each file that cannot be read.

        Returns:
            Fingerprint by partition key; a file that is missing was not reached, or cannot be read.
        """
        deadline = None if budget_sec is None else time.monotonic() + budget_sec
        found, unknown, problems = self._without_reading(files)
        batch = _Batch(unknown, deadline)
        workers = [
            threading.Thread(target=self._work, args=(batch,), name=f"fingerprints-{number}", daemon=True)
            for number in range(min(self._threads, len(unknown)))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        read, unreadable = batch.so_far()
        for file, error in problems + unreadable:
            if on_problem is not None:
                on_problem(file, error)
        return found | read

    def _without_reading(
        self, files: Sequence[MediaFile]
    ) -> tuple[dict[str, str], list[tuple[MediaFile, ContentState | None]], list[tuple[MediaFile, MediaError]]]:
        if not self._store.state_is_cheap:
            found = self._cache.get_recent(files, time.time() - self._recheck_seconds)
            return found, [(file, None) for file in files if file.key not in found], []
        found, problems = {}, []
        asked: list[tuple[MediaFile, ContentState]] = []
        for file in files:
            try:
                state = self._store.state(file)
            except MediaError as error:
                problems.append((file, error))
                continue
            if state.given is not None:
                found[file.key] = fingerprint_of_identity(state.given)
            else:
                asked.append((file, state))
        found |= self._cache.get_many((file, state.stamp) for file, state in asked)
        return found, [(file, state) for file, state in asked if file.key not in found], problems

    def _work(self, batch: _Batch) -> None:
        while (following := batch.next()) is not None:
            file, state = following
            with _lock:
                if _address(file) in _being_read:  # an earlier call's reading goes on
                    continue
                _being_read.add(_address(file))
            try:
                batch.add(file, self._find_out(file, state))
            except MediaError as error:
                batch.add(file, error)
            finally:
                with _lock:
                    _being_read.discard(_address(file))

    def _find_out(self, file: MediaFile, state: ContentState | None) -> str:
        if state is None:
            state = self._store.state(file)
            if state.given is None:
                known = self._cache.get_many([(file, state.stamp)])
                if file.key in known:
                    if not self._store.state_is_cheap:
                        self._cache.put(file, state.stamp, known[file.key], time.time())
                    return known[file.key]
        if state.given is not None:
            fingerprint = fingerprint_of_identity(state.given)
            if not self._store.state_is_cheap:
                self._cache.put(file, state.stamp, fingerprint, time.time())
            return fingerprint
        return self._read(file, state)

    def _read(self, file: MediaFile, state: ContentState) -> str:
        started = time.time()
        try:
            with self._store.open(file) as stream:
                fingerprint = fingerprint_of_bytes(stream)
        except OSError as error:
            raise MediaError(f"{file.key!r} cannot be read: {describe_error(error)}.") from None
        if self._store.state(file).stamp != state.stamp:
            raise MediaError(
                f"{file.key!r} was written to while it was read; it is looked at again at the next listing."
            )
        if state.settled_at is None or abs(started - state.settled_at) > _CLOCK_GRAIN_SEC:
            self._cache.put(file, state.stamp, fingerprint, started)
        return fingerprint
