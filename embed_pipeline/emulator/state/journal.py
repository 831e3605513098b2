"""The journal: one entry for every request, so that tests can count requests and paid tasks."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from embed_pipeline.emulator.state.database import Database
from embed_pipeline.redaction import without_credentials

_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  endpoint TEXT NOT NULL,
  method TEXT NOT NULL,
  path TEXT NOT NULL,
  query TEXT NOT NULL,
  status INTEGER,
  took_ms REAL NOT NULL,
  bytes_in INTEGER NOT NULL,
  bytes_out INTEGER NOT NULL,
  task_id TEXT,
  source TEXT,
  faults TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS journal_by_endpoint ON journal (endpoint, status);
CREATE TABLE IF NOT EXISTS paid (task_id TEXT PRIMARY KEY, source TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS paid_with_the_task AFTER INSERT ON tasks BEGIN
  INSERT INTO paid VALUES (NEW.id, json_extract(NEW.request, '$.source'));
END;
"""
# Entries are written many at a time, and a process that is killed loses the last second of them. What was paid for is
# noted in the very transaction that keeps the task: it is what this journal is for.
_FIELDS = "seq, at, endpoint, method, path, query, status, took_ms, bytes_in, bytes_out, task_id, source, faults"
_BATCH = 256
_AT_ONCE = ".sync"


@dataclass
class JournalEntry:
    """One request.

    Args:
        at: Epoch milliseconds at which it came.
        endpoint: One of `endpoints.ENDPOINTS`.
        method: The HTTP method.
        path: The path without its query.
        query: The query of a list; queries that may hold signatures are left out.
        status: The status that was answered, or None if the connection was dropped first.
        took_ms: Milliseconds until the answer was complete.
        bytes_in: Bytes of the body that came.
        bytes_out: Bytes of the body that went.
        task_id: The task that was created.
        source: The source of that task, or of what was embedded at once: a URL without its query, an asset id, or the
            hash of the bytes.
        faults: The ids of the fault rules that happened.
    """

    at: int
    endpoint: str
    method: str
    path: str
    query: str = ""
    status: int | None = None
    took_ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    task_id: str | None = None
    source: str | None = None
    faults: list[str] = field(default_factory=list)


class Journal:
    """Keeps entries in the database, many at a time; safe to call from any thread.

    Args:
        database: Where they are kept; the task store has made its tables there.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[JournalEntry] = []
        database.create(_SCHEMA)

    def add(self, entry: JournalEntry) -> bool:
        """Take an entry; returns whether so many wait that they should be flushed."""
        with self._lock:
            self._waiting.append(entry)
            return len(self._waiting) >= _BATCH

    def flush(self) -> None:
        """Write the entries that wait to the database."""
        # Only threads that flush wait for the disk; requests go on adding entries.
        with self._writing:
            with self._lock:
                waiting, self._waiting = self._waiting, []
            if not waiting:
                return
            rows = [tuple({**asdict(entry), "faults": json.dumps(entry.faults)}.values()) for entry in waiting]
            with self._database.write() as connection:
                connection.executemany(
                    f"INSERT INTO journal ({_FIELDS.removeprefix('seq, ')})"  # noqa: S608
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )

    def entries(
        self,
        *,
        endpoint: str | None = None,
        status: int | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[dict[str, Any]]:
        """Return entries, oldest first.

        Args:
            endpoint: Only of this endpoint.
            status: Only with this status.
            after: Only those whose `seq` is greater.
            limit: How many at most.
        """
        self.flush()
        rows = self._database.reader.execute(
            f"SELECT {_FIELDS} FROM journal WHERE seq > ? AND (? IS NULL OR endpoint = ?)"  # noqa: S608
            " AND (? IS NULL OR status = ?) ORDER BY seq LIMIT ?",
            (after, endpoint, endpoint, status, status, limit),
        ).fetchall()
        names = _FIELDS.split(", ")
        return [dict(zip(names, row, strict=True)) | {"faults": json.loads(row[-1])} for row in rows]

    def pay(self, key: str, source: str) -> None:
        """Note, before it is answered, that something was embedded at once.

        Args:
            key: A name that no other request has, ending in `.sync`.
            source: What stands for all that was embedded.
        """
        with self._database.write() as connection:
            connection.execute("INSERT INTO paid VALUES (?, ?)", (key, source))

    def summary(self) -> dict[str, Any]:
        """Count requests by endpoint and status, and tasks by source.

        Returns:
            `requests` (endpoint to status to count), `tasks_created`, `embedded_at_once` (how often the synchronous
            endpoint embedded something), and `repeated_sources` (sources for which more than one task was created, or
            that were embedded at once more often, with how many): what was paid for more than once.
        """
        self.flush()
        requests: dict[str, dict[str, int]] = {}
        rows = self._database.reader.execute("SELECT endpoint, status, count(*) FROM journal GROUP BY 1, 2")
        for endpoint, status, count in rows:
            requests.setdefault(endpoint, {})["dropped" if status is None else str(status)] = count
        created, at_once = list[str](), list[str]()
        for key, source in self._database.reader.execute("SELECT task_id, source FROM paid"):
            (at_once if key.endswith(_AT_ONCE) else created).append(without_credentials(source))
        counts = Counter(created + at_once)
        return {
            "requests": requests,
            "tasks_created": len(created),
            "embedded_at_once": len(at_once),
            "repeated_sources": {source: count for source, count in counts.items() if count > 1},
        }

    def clear(self) -> None:
        """Forget every entry."""
        with self._writing:
            with self._lock:
                self._waiting = []
            with self._database.write() as connection:
                connection.execute("DELETE FROM journal")
                connection.execute("DELETE FROM paid")
