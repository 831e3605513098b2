"""Stores of a benchmark: Dagster's instance and the ledger, on SQLite or PostgreSQL, and a ledger of very many files.

`--postgres` needs Debian's server programs and, for Dagster's own storage, dagster-postgres and psycopg2, which the
project does not depend on: `pip install --no-deps --target DIR dagster-postgres==X psycopg2-binary`, with DIR in
PYTHONPATH and X as Dagster's own version tells (0.29.27 for 1.13.27).
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from embed_pipeline import EmbeddingLedgerResource
from embed_pipeline.ledger import Ledger, Target, tables
from embed_pipeline.media import MediaFile
from embed_pipeline.pipeline.discover import content_token

_INSTANCE = "telemetry:\n  enabled: false\n"
_STORAGE_VARIABLE = "BENCHMARK_DAGSTER_STORAGE"
_AT_ONCE = 10_000


@dataclass(frozen=True)
class Stores:
    """What a pipeline keeps its records in.

    Args:
        home: The folder of the Dagster instance.
        ledger_url: The ledger's URL; empty for SQLite below the dataset.
    """

    home: Path
    ledger_url: str

    @property
    def ledger(self) -> EmbeddingLedgerResource:
        """The ledger's resource."""
        return EmbeddingLedgerResource(url=self.ledger_url)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Open the Dagster instance."""
        os.environ["DAGSTER_HOME"] = str(self.home)
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            yield instance


@contextmanager
def stores_in(folder: Path, *, postgres: bool) -> Iterator[Stores]:
    """Make the stores of one pipeline in an empty folder.

    Args:
        folder: The folder.
        postgres: Whether both are kept on a PostgreSQL server, which is started; else on SQLite.
    """
    home = folder / "dagster"
    home.mkdir(parents=True)
    settings = home / "dagster.yaml"
    if not postgres:
        settings.write_text(_INSTANCE)
        yield Stores(home, "")
        return
    from embed_pipeline_tests.postgres import postgres_server

    for name in ("dagster_postgres", "psycopg2"):
        if importlib.util.find_spec(name) is None:
            raise SystemExit(f"{name} is not installed. {__doc__}")
    with postgres_server(durable=True) as server, server.database() as ledger, server.database() as storage:
        # SQLAlchemy 2.1 takes a plain postgresql:// for psycopg 3.
        os.environ[_STORAGE_VARIABLE] = server.url(storage).replace("postgresql://", "postgresql+psycopg2://")
        settings.write_text(f"{_INSTANCE}storage:\n  postgres:\n    postgres_url:\n      env: {_STORAGE_VARIABLE}\n")
        yield Stores(home, server.url(ledger))


@dataclass(frozen=True)
class KnownFiles:
    """Media files that a ledger is filled with: all are embedded, but for the last, whose tasks are in flight.

    Args:
        count: Media files in all.
        in_flight: Task id, and when it was created in seconds since 1970, of each that is in flight.
    """

    count: int
    in_flight: Sequence[tuple[str, float]] = ()

    def key(self, number: int) -> str:
        """Return the partition key of a file."""
        return f"library/{number // 1000:04}/{number:07}.mp4"

    def keys(self) -> list[str]:
        """Return all partition keys."""
        return [self.key(number) for number in range(self.count)]

    def file(self, number: int, *, modified: float = 1.7e9) -> MediaFile:
        """Return a file as the library lists it."""
        key = self.key(number)
        return MediaFile(key, key, f"https://media.example.com/{key}", 1_000_000, modified, None, "video", ".mp4")

    def rows(self, target: Target, now: float) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the ledger's rows of each file and of its task."""
        embedded = self.count - len(self.in_flight)
        for number in range(self.count):
            is_embedded = number < embedded
            task_id, created_at = (f"{number:024x}", now) if is_embedded else self.in_flight[number - embedded]
            media = self._media(target, now, number, task_id, is_embedded=is_embedded)
            yield media, self._task(target, created_at, number, task_id, is_embedded=is_embedded)

    def _media(self, target: Target, now: float, number: int, task_id: str, *, is_embedded: bool) -> dict[str, Any]:
        file = self.file(number)
        row = {
            "pipeline": target.pipeline,
            "key": file.key,
            "uri": file.uri,
            "media_type": "video",
            "size": file.size,
            "token": content_token(file, now),
            "fingerprint": f"{number:064x}",
            "duration_sec": 600.0,
            "changed_at": now,
            "updated_at": now,
            "task_id": task_id,
        }
        names = ("embedded_fingerprint", "embedded_digest", "embedded_platform", "embedded_task_id")
        results = (*names, "segments", "space", "size_bytes", "written_at")
        if not is_embedded:
            return row | dict.fromkeys(results)
        identity = (row["fingerprint"], target.video_digest, target.platform, task_id)
        return row | dict(zip(results, (*identity, 150, "marengo3.0-512", 300_000, now), strict=True))

    def _task(self, target: Target, at: float, number: int, task_id: str, *, is_embedded: bool) -> dict[str, Any]:
        return {
            "fingerprint": f"{number:064x}",
            "settings_digest": target.video_digest,
            "platform": target.platform,
            "attempt": 1,
            "is_latest": True,
            "tries": 1,
            "state": "collected" if is_embedded else "processing",
            "pipeline": target.pipeline,
            "key": self.key(number),
            "run_id": "00000000-0000-0000-0000-000000000000",
            "owner": "benchmark",
            "fence": 1,
            "claimed_at": at,
            "lease_until": at,
            "source_url": self.file(number).uri,
            "media_type": "video",
            "settings": json.dumps({"model_name": "marengo3.0"}),
            "config_digest": target.config_digest,
            "minutes": 10.0,
            "task_id": task_id,
            "origin": "created",
            "created_at": at,
            "ended_at": at if is_embedded else None,
        }


def fill_ledger(ledger: Ledger, target: Target, files: KnownFiles) -> float:
    """Write the rows of very many media files and their tasks in large transactions; return the seconds it took.

    Args:
        ledger: The ledger, empty.
        target: The pipeline.
        files: The media files.
    """
    begin = time.perf_counter()
    now = ledger.now()
    ledger.note(target.pipeline, imported_at=now)
    rows = files.rows(target, now)
    while part := list(itertools.islice(rows, _AT_ONCE)):
        with ledger.database.write() as (connection, _):
            _insert(connection, tables.media, [media for media, _ in part])
            _insert(connection, tables.task, [task for _, task in part])
    if not ledger.database.is_sqlite:
        with ledger.database.write() as (connection, _):
            connection.execute(sa.text("ANALYZE"))
    return time.perf_counter() - begin


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows past SQLAlchemy, which would take minutes for a million; by COPY on PostgreSQL."""
    names = list(rows[0])
    values = [tuple(row.values()) for row in rows]
    cursor: Any = connection.connection.cursor()
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(names))
        cursor.executemany(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({places})", values)
        return
    with cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
        for row in values:
            copy.write_row(row)
