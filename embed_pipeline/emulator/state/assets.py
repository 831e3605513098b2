"""Uploaded assets: their rows in the database and their files beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed_pipeline.emulator.state.clock import to_rfc3339
from embed_pipeline.emulator.state.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS assets (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  method TEXT NOT NULL,
  filename TEXT NOT NULL,
  file_type TEXT NOT NULL,
  kind TEXT NOT NULL,
  user_metadata TEXT,
  url TEXT,
  arrived INTEGER NOT NULL DEFAULT 0,
  outcome TEXT,
  release_at INTEGER,
  size INTEGER,
  duration REAL,
  technical TEXT,
  error TEXT
);
"""
_COLUMNS = (
    "id, created_at, method, filename, file_type, kind, user_metadata, url, outcome, release_at, size, duration, "
    "technical, error"
)


@dataclass(frozen=True)
class Asset:
    """An uploaded file.

    Args:
        id: 24 hex characters.
        created_at: Epoch milliseconds.
        method: `direct`, `url` or `multipart`.
        filename: As it was uploaded.
        file_type: MIME type.
        kind: `audio`, `video` or `image`; guessed from the name until the file was read.
        user_metadata: JSON text, or None.
        url: Where it is to be fetched from, with method `url`.
        outcome: `ready` or `failed` once the file was read.
        release_at: Epoch milliseconds from which on the outcome may show.
        size: Bytes, once it is there.
        duration: Seconds, once it was read.
        technical: Metadata of its header, as JSON text.
        error: Why it failed.
    """

    id: str
    created_at: int
    method: str
    filename: str
    file_type: str
    kind: str
    user_metadata: str | None
    url: str | None
    outcome: str | None
    release_at: int | None
    size: int | None
    duration: float | None
    technical: str | None
    error: str | None

    def status(self, now: int) -> str:
        """Return what a client sees at a time (epoch milliseconds): `processing`, `ready` or `failed`."""
        if self.outcome is None or now < (self.release_at or 0):
            return "processing"
        return self.outcome

    def body(self, now: int, *, detailed: bool = False) -> dict[str, Any]:
        """Write the asset as the API shows it.

        Args:
            now: Epoch milliseconds.
            detailed: Write what a retrieve shows and the list does not.
        """
        status = self.status(now)
        body: dict[str, Any] = {
            "_id": self.id,
            "method": self.method,
            "status": status,
            "filename": self.filename,
            "file_type": self.file_type,
            "created_at": to_rfc3339(self.created_at),
        }
        if self.user_metadata is not None:
            body["user_metadata"] = json.loads(self.user_metadata)
        if detailed and status == "ready":
            body["size"] = self.size
            if self.duration is not None:
                body["duration"] = self.duration
            body["technical_metadata"] = json.loads(self.technical or "{}")
        if detailed and status == "failed":
            body["error"] = {"message": self.error}
        return body


class AssetStore:
    """Assets; safe to call from any thread.

    Args:
        database: Where their rows are kept.
        folder: Where their files are kept.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        database.create(_SCHEMA)

    def path(self, asset_id: str) -> Path:
        """Return where an asset's file lies, or will."""
        return self.folder / asset_id

    def add(
        self,
        asset_id: str,
        *,
        now: int,
        method: str,
        filename: str,
        file_type: str,
        kind: str,
        user_metadata: str | None = None,
        url: str | None = None,
        arrived: bool = False,
    ) -> None:
        """Keep a new asset.

        Args:
            asset_id: Its id.
            now: Epoch milliseconds.
            method: `direct`, `url` or `multipart`.
            filename: Its file name.
            file_type: MIME type.
            kind: `audio`, `video` or `image`.
            user_metadata: JSON text.
            url: Where it is to be fetched from.
            arrived: Whether its file is complete.
        """
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO assets (id, created_at, method, filename, file_type, kind, user_metadata, url, arrived)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (asset_id, now, method, filename, file_type, kind, user_metadata, url, arrived),
            )

    def get(self, asset_id: str) -> Asset | None:
        """Return an asset, or None if there is none of this id."""
        query = f"SELECT {_COLUMNS} FROM assets WHERE id = ?"  # noqa: S608
        row = self._database.reader.execute(query, (asset_id,)).fetchone()
        return None if row is None else Asset(*row)

    def page(
        self, *, ids: list[str], kinds: list[str], filename: str | None, offset: int, limit: int
    ) -> tuple[list[Asset], int]:
        """Return one page of assets, newest first, and how many there are over all pages.

        Args:
            ids: Only these, if any are named.
            kinds: Only of these kinds, if any are named.
            filename: Only those whose name holds this text, in any case.
            offset: How many to pass over.
            limit: How many to return.
        """
        where, values = "1", []
        for column, wanted in (("id", ids), ("kind", kinds)):
            if wanted:
                where += f" AND {column} IN ({', '.join('?' * len(wanted))})"
                values += wanted
        if filename:
            where += " AND instr(lower(filename), lower(?))"
            values.append(filename)
        reader = self._database.reader
        (total,) = reader.execute(f"SELECT count(*) FROM assets WHERE {where}", values).fetchone()  # noqa: S608
        rows = reader.execute(
            f"SELECT {_COLUMNS} FROM assets WHERE {where} ORDER BY seq DESC LIMIT ? OFFSET ?",  # noqa: S608
            (*values, limit, offset),
        ).fetchall()
        return [Asset(*row) for row in rows], total

    def ids(self) -> set[str]:
        """Return the ids of all assets."""
        return {row[0] for row in self._database.reader.execute("SELECT id FROM assets")}

    def unread(self) -> list[str]:
        """Return the ids of assets whose file is there (or can be fetched) and was not read yet."""
        query = "SELECT id FROM assets WHERE outcome IS NULL AND (arrived OR url IS NOT NULL) ORDER BY seq"
        return [row[0] for row in self._database.reader.execute(query)]

    def settle(
        self,
        asset_id: str,
        *,
        release_at: int,
        error: str | None = None,
        size: int | None = None,
        duration: float | None = None,
        kind: str | None = None,
        technical: dict[str, Any] | None = None,
    ) -> None:
        """Keep what reading an asset's file came to.

        Args:
            asset_id: The asset.
            release_at: Epoch milliseconds from which on the outcome may show.
            error: Why it failed. None if it did not.
            size: Bytes.
            duration: Seconds.
            kind: `audio`, `video` or `image`.
            technical: Metadata of its header.
        """
        with self._database.write() as connection:
            connection.execute(
                "UPDATE assets SET outcome = ?, release_at = ?, error = ?, size = ?, duration = ?, technical = ?,"
                " kind = coalesce(?, kind) WHERE id = ?",
                (
                    "ready" if error is None else "failed",
                    release_at,
                    error,
                    size,
                    duration,
                    json.dumps(technical or {}),
                    kind,
                    asset_id,
                ),
            )

    def change_metadata(self, asset_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
        """Change an asset's user metadata.

        Args:
            asset_id: The asset.
            change: Makes the new metadata from what is kept.

        Returns:
            Whether there is such an asset.
        """
        with self._database.write() as connection:
            row = connection.execute("SELECT user_metadata FROM assets WHERE id = ?", (asset_id,)).fetchone()
            if row is None:
                return False
            changed = change(json.loads(row[0] or "{}"))
            connection.execute(
                "UPDATE assets SET user_metadata = ? WHERE id = ?", (json.dumps(changed) if changed else None, asset_id)
            )
        return True

    def remove(self, asset_id: str) -> None:
        """Delete an asset and its file."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM assets WHERE id = ?", (asset_id,))
        self.path(asset_id).unlink(missing_ok=True)
