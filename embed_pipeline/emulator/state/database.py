"""One SQLite file for everything an emulator keeps, safe to use from any thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Database:
    """A SQLite file in write-ahead mode: one connection writes, every thread has one of its own to read.

    Args:
        path: The file; it is created where it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._opening = threading.Lock()
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        # It holds URLs with their signatures; SQLite gives its own further files the same mode.
        path.touch(mode=0o600)
        self._writer = self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=30)
        # Only a file that is new takes this: what is deleted is given back a little at a time.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        # In write-ahead mode this survives a crash of the process; only a power cut may lose the last moments.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        with self._opening:
            self._connections.append(connection)
        return connection

    def create(self, schema: str) -> None:
        """Create tables where they are not yet there."""
        with self._writing:
            self._writer.executescript(schema)

    def add_column(self, table: str, column: str) -> None:
        """Add a column (its name and type) to a table that an older version of the emulator made without it."""
        with self._writing:
            names = [row[1] for row in self._writer.execute(f"PRAGMA table_info({table})")]
            if column.partition(" ")[0] not in names:
                self._writer.execute(f"ALTER TABLE {table} ADD COLUMN {column}")

    @property
    def reader(self) -> sqlite3.Connection:
        """This thread's connection for reading, which a long write does not hold up."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        return connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction on the one writing connection; an exception rolls it back."""
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    def give_back(self, pages: int) -> bool:
        """Return free pages to the disk.

        Args:
            pages: How many at most.

        Returns:
            Whether there are more.
        """
        with self._writing:
            (mode,) = self._writer.execute("PRAGMA auto_vacuum").fetchone()
            (free,) = self._writer.execute("PRAGMA freelist_count").fetchone()
            if mode == 0 or free == 0:
                return False
            # Every step of the statement frees one page; unlike execute, this takes them all.
            self._writer.executescript(f"PRAGMA incremental_vacuum({pages:d})")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return bool(free > pages)

    def close(self) -> None:
        """Close every connection; the database is of no use afterwards."""
        with self._writing, self._opening:
            for connection in self._connections:
                connection.close()
