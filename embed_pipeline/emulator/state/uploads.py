"""Multipart uploads: sessions, presigned URLs that expire and serve once, chunks with ETags."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.state.clock import to_rfc3339
from embed_pipeline.emulator.state.database import Database

SESSION_SEC = 24 * 3600
URL_SEC = 3600
_EXPIRED = "The upload was not completed within 24 hours."
_SCHEMA = """
CREATE TABLE IF NOT EXISTS uploads (
  id TEXT PRIMARY KEY,
  asset_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  total_size INTEGER NOT NULL,
  chunk_size INTEGER NOT NULL,
  done INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS chunks (
  upload_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  etag TEXT NOT NULL,
  size INTEGER NOT NULL,
  nonce TEXT NOT NULL,
  reported_at INTEGER,
  PRIMARY KEY (upload_id, number)
);
"""


@dataclass(frozen=True)
class Upload:
    """A multipart upload session.

    Args:
        id: 24 hex characters.
        asset_id: The asset it becomes.
        created_at: Epoch milliseconds.
        updated_at: Epoch milliseconds.
        total_size: Bytes of the whole file.
        chunk_size: Bytes of every chunk but the last.
        done: Whether every chunk was reported.
    """

    id: str
    asset_id: str
    created_at: int
    updated_at: int
    total_size: int
    chunk_size: int
    done: bool

    @property
    def total_chunks(self) -> int:
        """Number of chunks of the file."""
        return -(-self.total_size // self.chunk_size)

    @property
    def expires_at(self) -> int:
        """Epoch milliseconds at which the session ends."""
        return self.created_at + SESSION_SEC * 1000

    def size_of(self, number: int) -> int:
        """Return the bytes of a chunk, counted from 1."""
        return min(self.chunk_size, self.total_size - (number - 1) * self.chunk_size)

    def status(self, now: int) -> str:
        """Return `completed`, `expired` or `active` at a time (epoch milliseconds)."""
        if self.done:
            return "completed"
        return "expired" if now >= self.expires_at else "active"


class Uploads:
    """Multipart upload sessions; safe to call from any thread.

    Args:
        database: Where they are kept.
        folder: Where chunks are kept until the file is complete.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        database.create(_SCHEMA)
        key = folder / "signing-key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(32))
        self._key = key.read_bytes()
        self._lock = threading.Lock()
        self._assembling: set[str] = set()

    def add(self, upload: Upload) -> None:
        """Keep a new session."""
        (self._folder / upload.id).mkdir()
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, 0)",
                (
                    upload.id,
                    upload.asset_id,
                    upload.created_at,
                    upload.updated_at,
                    upload.total_size,
                    upload.chunk_size,
                ),
            )

    def get(self, upload_id: str) -> Upload | None:
        """Return a session, or None if there is none of this id."""
        row = self._database.reader.execute("SELECT * FROM uploads WHERE id = ?", (upload_id,)).fetchone()
        return None if row is None else _upload(row)

    def incomplete(self, *, offset: int, limit: int) -> tuple[list[Upload], int]:
        """Return one page of the sessions that are not complete, newest first, and how many there are in all."""
        reader = self._database.reader
        (total,) = reader.execute("SELECT count(*) FROM uploads WHERE NOT done").fetchone()
        rows = reader.execute(
            "SELECT * FROM uploads WHERE NOT done ORDER BY created_at DESC, rowid DESC LIMIT ? OFFSET ?",
            (limit, offset),
        ).fetchall()
        return [_upload(row) for row in rows], total

    def presigned(self, upload: Upload, origin: str, first: int, count: int, now: int) -> list[dict[str, Any]]:
        """Make URLs for a run of chunks.

        Args:
            upload: The session.
            origin: Scheme, host and port that the client reached.
            first: The first chunk, from 1.
            count: How many; chunks beyond the last are left out.
            now: Epoch milliseconds.

        Returns:
            What the API shows of each URL.
        """
        expires = min(now + URL_SEC * 1000, upload.expires_at)
        urls = []
        for number in range(first, min(first + count, upload.total_chunks + 1)):
            nonce = secrets.token_hex(8)
            signature = self._signature(upload.id, number, expires, nonce)
            query = f"expires={expires}&nonce={nonce}&signature={signature}"
            url = f"{origin}/_upload/{upload.id}/{number}?{query}"
            urls.append({"chunk_index": number, "url": url, "expires_at": to_rfc3339(expires)})
        return urls

    def receiving(self, upload_id: str, number: int, query: dict[str, str], now: int) -> Upload:
        """Hold a presigned URL to its signature, its end and its single use.

        Args:
            upload_id: The session.
            number: The chunk, from 1.
            query: The URL's query.
            now: Epoch milliseconds.

        Returns:
            The session.

        Raises:
            Refusal: 403 if the URL may not be used, as an object store answers.
        """
        expires, nonce = query.get("expires", ""), query.get("nonce", "")
        numeric = int(expires) if expires.isascii() and expires.isdigit() and len(expires) < 16 else 0
        valid = hmac.compare_digest(
            self._signature(upload_id, number, numeric, nonce).encode(), query.get("signature", "").encode()
        )
        upload = self.get(upload_id) if valid else None
        if upload is None:
            raise Refusal("The signature of this upload URL is not valid.", status=403, code="SignatureDoesNotMatch")
        if now >= numeric:
            raise Refusal("This upload URL has expired; request a new one.", status=403, code="AccessDenied")
        used = self._database.reader.execute(
            "SELECT 1 FROM chunks WHERE upload_id = ? AND number = ? AND (nonce = ? OR reported_at IS NOT NULL)",
            (upload_id, number, nonce),
        ).fetchone()
        if used is not None:
            raise Refusal("This upload URL was used already; request a new one.", status=403, code="AccessDenied")
        return upload

    def keep_chunk(self, upload: Upload, number: int, body: Path, nonce: str) -> str:
        """Keep a chunk that arrived.

        Args:
            upload: The session.
            number: The chunk, from 1.
            body: Where its bytes are; the file is moved.
            nonce: Of the URL that was used.

        Returns:
            Its ETag, without quotes.

        Raises:
            Refusal: 400 if it does not have the size that was agreed on.
        """
        size = body.stat().st_size
        if size != upload.size_of(number):
            message = f"Chunk {number} must have {upload.size_of(number)} bytes, not {size}."
            raise Refusal(message, status=400, code="IncompleteBody")
        with body.open("rb") as file:
            etag = hashlib.file_digest(file, "md5").hexdigest()
        body.replace(self._folder / upload.id / str(number))
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, NULL)", (upload.id, number, etag, size, nonce)
            )
        return etag

    def incoming(self, upload: Upload, number: int) -> Path:
        """Return where the bytes of a chunk go while they arrive."""
        return self._folder / upload.id / f"{number}.{secrets.token_hex(4)}.part"

    def chunks(self, upload: Upload) -> dict[int, tuple[str, int, int | None]]:
        """Return ETag, size and time of report (epoch milliseconds) of every chunk that arrived, by number."""
        rows = self._database.reader.execute(
            "SELECT number, etag, size, reported_at FROM chunks WHERE upload_id = ?", (upload.id,)
        )
        return {number: (etag, size, reported) for number, etag, size, reported in rows}

    def report(self, upload: Upload, numbers: list[int], now: int) -> int:
        """Note chunks as reported.

        Args:
            upload: The session.
            numbers: Chunks that arrived and were not reported before.
            now: Epoch milliseconds.

        Returns:
            How many chunks of the session are reported by now.
        """
        with self._database.write() as connection:
            connection.execute(
                "UPDATE chunks SET reported_at = ? WHERE upload_id = ? AND number IN (SELECT value FROM json_each(?))",
                (now, upload.id, json.dumps(numbers)),
            )
            connection.execute("UPDATE uploads SET updated_at = ? WHERE id = ?", (now, upload.id))
            (reported,) = connection.execute(
                "SELECT count(*) FROM chunks WHERE upload_id = ? AND reported_at IS NOT NULL", (upload.id,)
            ).fetchone()
        return int(reported)

    def assemble(self, upload: Upload, target: Path) -> bool:
        """Join the chunks into one file.

        Args:
            upload: The session, all of whose chunks are reported.
            target: Where the file goes.

        Returns:
            Whether this call did it; false if another was faster.
        """
        with self._lock:
            current = self.get(upload.id)
            if current is None or current.done or upload.id in self._assembling:
                return False
            self._assembling.add(upload.id)
        try:
            # Complete before it is noted: a crash midway leaves the session active and its chunks in place.
            part = target.with_name(f"{target.name}.part")
            with part.open("wb") as file:
                for number in range(1, upload.total_chunks + 1):
                    with (self._folder / upload.id / str(number)).open("rb") as chunk:
                        shutil.copyfileobj(chunk, file, 1 << 20)
            part.replace(target)
            with self._database.write() as connection:
                connection.execute("UPDATE uploads SET done = 1 WHERE id = ?", (upload.id,))
                connection.execute("UPDATE assets SET arrived = 1 WHERE id = ?", (upload.asset_id,))
        finally:
            with self._lock:
                self._assembling.discard(upload.id)
        shutil.rmtree(self._folder / upload.id, ignore_errors=True)
        return True

    def expire(self, now: int, *, most: int) -> int:
        """Delete the chunks of sessions that were not completed in time; their assets fail.

        Args:
            now: Epoch milliseconds.
            most: How many sessions are dealt with at most.

        Returns:
            How many were.
        """
        query = (
            "SELECT uploads.id, asset_id FROM uploads LEFT JOIN assets ON assets.id = asset_id WHERE NOT done"
            " AND uploads.created_at <= ? AND outcome IS NULL LIMIT ?"
        )
        expired = self._database.reader.execute(query, (now - SESSION_SEC * 1000, most)).fetchall()
        for upload_id, asset_id in expired:
            with self._lock:
                if upload_id in self._assembling:
                    continue  # Its last report came in time.
            shutil.rmtree(self._folder / upload_id, ignore_errors=True)
            with self._database.write() as connection:
                connection.execute("DELETE FROM chunks WHERE upload_id = ?", (upload_id,))
                failed = connection.execute(
                    "UPDATE assets SET outcome = 'failed', release_at = ?, error = ? WHERE id = ?",
                    (now, _EXPIRED, asset_id),
                )
                if not failed.rowcount:
                    # The asset was deleted, so its upload is of no use.
                    connection.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))
        return len(expired)

    def forget_before(self, created_at: int) -> None:
        """Forget sessions that were opened before a time (epoch milliseconds), complete or not."""
        with self._database.write() as connection:
            old = "SELECT id FROM uploads WHERE created_at < ?"
            connection.execute(f"DELETE FROM chunks WHERE upload_id IN ({old})", (created_at,))  # noqa: S608
            connection.execute("DELETE FROM uploads WHERE created_at < ?", (created_at,))

    def _signature(self, upload_id: str, number: int, expires: int, nonce: str) -> str:
        return hmac.new(self._key, f"{upload_id}/{number}/{expires}/{nonce}".encode(), "sha256").hexdigest()


def _upload(row: tuple[Any, ...]) -> Upload:
    upload_id, asset_id, created_at, updated_at, total_size, chunk_size, done = row
    return Upload(upload_id, asset_id, created_at, updated_at, total_size, chunk_size, bool(done))
