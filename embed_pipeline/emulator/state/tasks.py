"""The task store: tasks and their results in SQLite, so that a restart loses nothing."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from embed_pipeline.emulator.rules.request import AcceptedRequest
from embed_pipeline.emulator.state.database import Database
from embed_pipeline.emulator.state.results import EmbeddingResult

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  status TEXT NOT NULL DEFAULT 'processing',
  work TEXT NOT NULL DEFAULT 'queued',
  outcome TEXT,
  error TEXT,
  duration REAL,
  engine TEXT,
  release_at INTEGER,
  polls_left INTEGER NOT NULL DEFAULT 0,
  held INTEGER NOT NULL DEFAULT 0,
  request TEXT NOT NULL,
  input_url TEXT,
  input_filename TEXT,
  effects TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS tasks_by_time ON tasks (created_at, seq, status);
CREATE INDEX IF NOT EXISTS tasks_by_status ON tasks (status, created_at, seq);
CREATE INDEX IF NOT EXISTS tasks_queued ON tasks (seq) WHERE work = 'queued';
CREATE INDEX IF NOT EXISTS tasks_unfinished ON tasks (seq) WHERE work != 'done';
CREATE INDEX IF NOT EXISTS tasks_unsettled ON tasks (release_at) WHERE status = 'processing' AND outcome IS NOT NULL;
CREATE TABLE IF NOT EXISTS late_creates (seq INTEGER PRIMARY KEY, due INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS results (
  task_id TEXT PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
  labels TEXT NOT NULL,
  missing TEXT NOT NULL,
  bounds BLOB NOT NULL,
  dimension INTEGER NOT NULL,
  vectors BLOB NOT NULL,
  uncertainty BLOB
);
"""
_TASK = (
    "id, created_at, updated_at, status, work, outcome, error, duration, engine, request, "
    "input_url, input_filename, effects, held, usage"
)
# A task that was released by hand before its work was done shows its outcome at once.
_RELEASE = "release_at = CASE WHEN json_extract(effects, '$.released') THEN ? ELSE ? END"
Status = Literal["processing", "ready", "failed"]


@dataclass(frozen=True)
class Task:
    """An embedding task as it is kept.

    Args:
        id: 24 hex characters.
        created_at: Epoch milliseconds.
        updated_at: Epoch milliseconds.
        status: What a client sees.
        work: What the worker sees: `queued`, `working` or `done`.
        outcome: What the work came to, `ready` or `failed`; it shows as the status once the task is released.
        error: The platform's words for a failure.
        duration: Length of the media in seconds, once known.
        engine: What computed the vectors, once known.
        request: What was asked for.
        input_url: The source's URL as it was sent.
        input_filename: The file name of an uploaded asset.
        effects: What fault rules do to this task.
        held: Whether the task waits for the control API.
        usage: The tokens it used, as results show them, once known; None with the older model.
    """

    id: str
    created_at: int
    updated_at: int
    status: Status
    work: str
    outcome: str | None
    error: str | None
    duration: float | None
    engine: str | None
    request: AcceptedRequest
    input_url: str | None
    input_filename: str | None
    effects: dict[str, Any]
    held: bool
    usage: dict[str, Any] | None = None


class TaskStore:
    """Tasks and results; safe to call from any thread.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.write = database.write
        database.create(_SCHEMA)
        database.add_column("tasks", "usage TEXT")
        with self.write() as connection:
            # What was in work when the process ended is taken up again.
            connection.execute("UPDATE tasks SET work = 'queued' WHERE work = 'working'")

    @property
    def reader(self) -> sqlite3.Connection:
        """This thread's connection for reading."""
        return self._database.reader

    def add(
        self,
        task_id: str,
        request: AcceptedRequest,
        *,
        now: int,
        polls_left: int = 0,
        held: bool = False,
        input_url: str | None = None,
        input_filename: str | None = None,
        effects: dict[str, Any] | None = None,
    ) -> None:
        """Keep a new task and queue its work.

        Args:
            task_id: Its id.
            request: What was asked for.
            now: Epoch milliseconds.
            polls_left: How often it is to be seen as processing.
            held: Whether it waits for the control API.
            input_url: The source's URL.
            input_filename: The file name of an uploaded asset.
            effects: What fault rules do to it.
        """
        with self.write() as connection:
            connection.execute(
                "INSERT INTO tasks (id, created_at, updated_at, polls_left, held, request, input_url, input_filename,"
                " effects) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    task_id,
                    now,
                    now,
                    polls_left,
                    held,
                    json.dumps(request.to_json()),
                    input_url,
                    input_filename,
                    json.dumps(effects or {}),
                ),
            )

    def add_late(self, body: str, *, due: int) -> None:
        """Keep the JSON of a request whose task is created at `due` (epoch milliseconds)."""
        with self.write() as connection:
            connection.execute("INSERT INTO late_creates (due, body) VALUES (?, ?)", (due, body))

    def take_late(self, now: int) -> list[tuple[int, str]]:
        """Return (due, body) of every late request whose time has come, in order, and forget them."""
        due = "SELECT due, body FROM late_creates WHERE due <= ? ORDER BY due, seq"
        if not self.reader.execute(due, (now,)).fetchall():
            return []
        with self.write() as connection:
            taken = connection.execute(due, (now,)).fetchall()
            connection.execute("DELETE FROM late_creates WHERE due <= ?", (now,))
        return taken

    def get(self, task_id: str) -> Task | None:
        """Return a task, or None if there is none of this id."""
        row = self.reader.execute(f"SELECT {_TASK} FROM tasks WHERE id = ?", (task_id,)).fetchone()  # noqa: S608
        return None if row is None else _task(row)

    def claim(self) -> Task | None:
        """Take the oldest queued task into work, or return None if none is queued."""
        with self.write() as connection:
            oldest = "SELECT seq FROM tasks WHERE work = 'queued' ORDER BY seq LIMIT 1"
            row = connection.execute(
                f"UPDATE tasks SET work = 'working' WHERE seq = ({oldest}) RETURNING {_TASK}"  # noqa: S608
            ).fetchone()
        return None if row is None else _task(row)

    def finish(
        self,
        task_id: str,
        result: EmbeddingResult,
        *,
        release_at: int,
        now: int,
        usage: dict[str, Any] | None = None,
    ) -> None:
        """Keep a task's vectors; it shows as ready once it is released.

        Args:
            task_id: The task.
            result: Its rows.
            release_at: Epoch milliseconds from which on it may show.
            now: Epoch milliseconds.
            usage: The tokens it used.
        """
        bounds = np.stack([result.start_sec, result.end_sec]).astype("<f8")
        vectors = np.ascontiguousarray(result.vectors, dtype="<f4")
        uncertainty = None if result.uncertainty is None else np.ascontiguousarray(result.uncertainty, dtype="<f4")
        with self.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    task_id,
                    json.dumps(result.labels),
                    json.dumps(result.missing),
                    bounds.data,
                    vectors.shape[1],
                    vectors.data if vectors.size else b"",
                    None if uncertainty is None else (uncertainty.data if uncertainty.size else b""),
                ),
            )
            connection.execute(
                f"UPDATE tasks SET work = 'done', outcome = 'ready', duration = ?, engine = ?, {_RELEASE},"  # noqa: S608
                " updated_at = ?, usage = ? WHERE id = ?",
                (result.duration_sec, result.engine, now, release_at, now, usage and json.dumps(usage), task_id),
            )

    def fail(self, task_id: str, message: str, *, release_at: int, now: int, duration: float | None = None) -> None:
        """Keep why a task failed, in the platform's words; it shows as failed once it is released."""
        with self.write() as connection:
            connection.execute(
                f"UPDATE tasks SET work = 'done', outcome = 'failed', error = ?, {_RELEASE}, updated_at = ?,"  # noqa: S608
                " duration = coalesce(?, duration) WHERE id = ?",
                (message, now, release_at, now, duration, task_id),
            )

    def settle(self, now: int) -> None:
        """Let every task show its outcome whose time has come; cheap when there is none."""
        due = "status = 'processing' AND outcome IS NOT NULL AND release_at <= ? AND polls_left <= 0 AND NOT held"
        # The planner has no statistics; left alone it would walk through every task that is processing.
        unsettled = "tasks INDEXED BY tasks_unsettled"
        any_due = f"SELECT 1 FROM {unsettled} WHERE {due} LIMIT 1"  # noqa: S608
        if self.reader.execute(any_due, (now,)).fetchone() is None:
            return
        with self.write() as connection:
            connection.execute(
                f"UPDATE {unsettled} SET status = outcome, updated_at = max(updated_at, release_at) WHERE {due}",  # noqa: S608
                (now,),
            )

    def count_poll(self, task_id: str | None = None) -> None:
        """Count that a client saw a task (or, through the list, every task) as processing."""
        where = "status = 'processing' AND polls_left > 0 AND (? IS NULL OR id = ?)"
        with self.write() as connection:
            connection.execute(
                f"UPDATE tasks SET polls_left = polls_left - 1 WHERE {where}",  # noqa: S608
                (task_id, task_id),
            )

    def release(self, task_id: str | None, *, now: int) -> int:
        """Let a task (or every task) show its outcome as soon as there is one; returns how many there were."""
        with self.write() as connection:
            cursor = connection.execute(
                "UPDATE tasks SET held = 0, polls_left = 0, release_at = min(coalesce(release_at, ?), ?),"
                " effects = json_set(effects, '$.released', 1)"
                " WHERE status = 'processing' AND (? IS NULL OR id = ?)",
                (now, now, task_id, task_id),
            )
        return cursor.rowcount

    def overrule(self, task_id: str, message: str, *, now: int) -> None:
        """Make a task fail at once."""
        with self.write() as connection:
            connection.execute(
                "UPDATE tasks SET status = 'failed', outcome = 'failed', error = ?, updated_at = ? WHERE id = ?",
                (message, now, task_id),
            )

    def add_effect(self, task_id: str, name: str, *, value: bool) -> None:
        """Set one effect of a task, as a fault rule would have done at its creation."""
        with self.write() as connection:
            connection.execute(
                "UPDATE tasks SET effects = json_set(effects, '$.' || ?, json(?)) WHERE id = ?",
                (name, json.dumps(value), task_id),
            )

    def page(
        self, *, first_ms: int, last_ms: int | None, status: str | None, offset: int, limit: int
    ) -> tuple[list[Task], int]:
        """Return one page of tasks, newest first.

        Args:
            first_ms: Oldest creation time, inclusive.
            last_ms: Newest creation time, inclusive. None has no bound.
            status: Only tasks of this status.
            offset: How many tasks to pass over.
            limit: How many tasks to return.

        Returns:
            The tasks, and how many there are over all pages.
        """
        where, values = "created_at >= ?", [first_ms]
        if last_ms is not None:
            where += " AND created_at <= ?"
            values.append(last_ms)
        parameters: list[Any] = list(values)
        if status is not None:
            where = f"status = ? AND {where}"
            parameters.insert(0, status)
        (total,) = self.reader.execute(f"SELECT count(*) FROM tasks WHERE {where}", parameters).fetchone()  # noqa: S608
        rows = self.reader.execute(
            f"SELECT {_TASK} FROM tasks WHERE {where} ORDER BY created_at DESC, seq DESC LIMIT ? OFFSET ?",  # noqa: S608
            (*parameters, limit, max(0, offset)),
        ).fetchall()
        return [_task(row) for row in rows], total

    def result(self, task_id: str) -> EmbeddingResult | None:
        """Return a task's rows, or None if it has none."""
        row = self.reader.execute(
            "SELECT labels, missing, bounds, dimension, vectors, uncertainty, engine, duration FROM results"
            " JOIN tasks ON tasks.id = results.task_id WHERE task_id = ?",
            (task_id,),
        ).fetchone()
        if row is None:
            return None
        labels, missing, bounds, dimension, vectors, uncertainty, engine, duration = row
        start, end = np.frombuffer(bounds, dtype="<f8").reshape(2, -1)
        return EmbeddingResult(
            engine=engine,
            duration_sec=duration,
            labels=tuple((option, scope) for option, scope in json.loads(labels)),
            start_sec=start,
            end_sec=end,
            vectors=np.frombuffer(vectors, dtype="<f4").reshape(-1, dimension),
            uncertainty=None if uncertainty is None else np.frombuffer(uncertainty, dtype="<f4").reshape(-1, dimension),
            missing=json.loads(missing),
        )

    def missing(self, task_id: str) -> dict[str, str]:
        """Return the options that a task's media could not serve, and why."""
        row = self.reader.execute("SELECT missing FROM results WHERE task_id = ?", (task_id,)).fetchone()
        return {} if row is None else dict(json.loads(row[0]))

    def unfinished(self, task_id: str | None = None) -> int:
        """Return how many tasks (or whether this task) still wait for their work to be done."""
        query = "SELECT count(*) FROM tasks INDEXED BY tasks_unfinished WHERE work != 'done' AND (? IS NULL OR id = ?)"
        (count,) = self.reader.execute(query, (task_id, task_id)).fetchone()
        return int(count)

    def counts(self) -> dict[str, int]:
        """Return how many tasks there are of each status."""
        return dict(self.reader.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall())

    def uses_asset(self, asset_id: str) -> bool:
        """Return whether an unfinished task reads this asset."""
        rows = self.reader.execute(
            "SELECT request FROM tasks INDEXED BY tasks_unfinished WHERE work != 'done'"
        ).fetchall()
        requests = (AcceptedRequest.from_json(json.loads(row[0])) for row in rows)
        return any(request.source_kind == "asset" and request.source == asset_id for request in requests)

    def unfinished_ids(self) -> set[str]:
        """Return the ids of tasks that still wait for their work to be done."""
        rows = self.reader.execute("SELECT id FROM tasks INDEXED BY tasks_unfinished WHERE work != 'done'").fetchall()
        return {row[0] for row in rows}

    def drop_results_before(self, created_at: int, *, most: int) -> list[str]:
        """Delete vectors of tasks that are past their retention.

        Args:
            created_at: Epoch milliseconds; tasks that were created before have their results deleted.
            most: How many results are deleted at most.

        Returns:
            The ids of those tasks.
        """
        # From the results, of which there are few, to their tasks: those of old tasks are long gone.
        query = (
            "SELECT task_id FROM results CROSS JOIN tasks ON tasks.id = results.task_id WHERE created_at < ? LIMIT ?"
        )
        gone = [row[0] for row in self.reader.execute(query, (created_at, most)).fetchall()]
        if gone:
            with self.write() as connection:
                connection.execute(
                    "DELETE FROM results WHERE task_id IN (SELECT value FROM json_each(?))", (json.dumps(gone),)
                )
        return gone


def _task(row: tuple[Any, ...]) -> Task:
    values = list(row)
    values[9] = AcceptedRequest.from_json(json.loads(values[9]))
    values[12] = json.loads(values[12])
    values[13] = bool(values[13])
    values[14] = values[14] and json.loads(values[14])
    return Task(*values)
