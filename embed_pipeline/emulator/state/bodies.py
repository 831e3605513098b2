"""Result bodies: the JSON of finished tasks' rows, written once and kept on disk while there is room."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from embed_pipeline.emulator.state.results import EmbeddingResult, with_effects
from embed_pipeline.emulator.state.tasks import Task, TaskStore

_log = logging.getLogger(__name__)
_BLOCK = 1 << 20
_ID_LENGTH = 24
ROWS_PER_CHUNK = 128


class ResultBodies:
    """A cache of files, each made once; the least recently used are deleted first.

    They are copies of what the task store holds, so they may be lost at any time. Safe to call from any thread.

    Args:
        folder: Where they are kept; what a former process left there is deleted.
        store: Where the vectors are.
        room: Bytes that all of them may take together.
        wide: Whether numbers are written with the digits of a double.
    """

    def __init__(self, folder: Path, store: TaskStore, *, room: int, wide: bool) -> None:
        self._folder = folder
        self._store = store
        self._room = room
        self._wide = wide
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used = 0
        self._making: dict[str, Future[None]] = {}
        self._ahead: deque[Task] = deque()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)

    def rows(self, task: Task) -> BinaryIO:
        """Open a finished task's rows as JSON, separated by commas and without brackets around them.

        Raises:
            LookupError: If the task has no result.
            OSError: If there is no room on the disk.
        """
        return self._open(task.id, lambda: self.fresh_rows(task))

    def gzipped(self, task: Task, frame: tuple[bytes, bytes]) -> BinaryIO:
        """Open a finished task's whole body, compressed.

        Args:
            task: The task.
            frame: What stands before and after the rows.

        Raises:
            LookupError: If the task has no result.
            OSError: If there is no room on the disk.
        """

        def make() -> Iterator[bytes]:
            yield frame[0]
            with self.rows(task) as file:
                while block := file.read(_BLOCK):
                    yield block
            yield frame[1]

        # The frame is part of the name: it depends on more than the rows.
        return self._open(f"{task.id}-{zlib.crc32(b''.join(frame)):08x}.gz", lambda: compressed(make()))

    def fresh_rows(self, task: Task) -> Iterator[bytes]:
        """Write a finished task's rows anew, piece by piece, without keeping them.

        Raises:
            LookupError: If the task has no result.
        """
        result = self._store.result(task.id)
        if result is None:
            raise LookupError(task.id)
        yield from rows_json(with_effects(result, task.effects, task.id), wide=self._wide)

    def remember(self, task: Task) -> None:
        """Note that a task is finished: its rows may be written before anybody asks for them."""
        with self._lock:
            self._ahead.append(task)

    def write_ahead(self) -> bool:
        """Write the rows of one task before they are requested; returns whether there was one."""
        with self._lock:
            if self._used >= self._room // 2:
                # The rest of the room is for those that are asked for: the oldest would else make way too early.
                self._ahead.clear()
            if not self._ahead:
                return False
            task = self._ahead.popleft()
        try:
            self.rows(task).close()
        except LookupError:
            pass  # Its results have expired.
        except OSError as error:
            _log.warning("A result could not be written ahead: %s.", error.strerror)
        return True

    def drop(self, task_ids: Iterable[str]) -> None:
        """Delete the bodies of tasks whose results are gone."""
        gone = set(task_ids)
        with self._lock:
            self._delete([name for name in self._sizes if name[:_ID_LENGTH] in gone])

    def _open(self, name: str, make: Callable[[], Iterable[bytes]]) -> BinaryIO:
        while True:
            with self._lock:
                if name in self._sizes:
                    self._sizes.move_to_end(name)
                    return (self._folder / name).open("rb")
                making = self._making.get(name)
                if making is None:
                    own: Future[None] = Future()
                    self._making[name] = own
            if making is None:
                return self._make(name, make, own)
            # Another thread is at it. Should it fail, this one tries for itself.
            making.result()

    def _make(self, name: str, make: Callable[[], Iterable[bytes]], own: Future[None]) -> BinaryIO:
        part, target = self._folder / f"{secrets.token_hex(8)}.part", self._folder / name
        try:
            with part.open("wb") as file:
                file.writelines(make())
                size = file.tell()
            with self._lock:
                part.replace(target)
                # Opened before others (or, if it is larger than all the room, itself) make way.
                opened = target.open("rb")
                self._sizes[name] = size
                self._used += size
                while self._used > self._room:
                    self._delete([next(iter(self._sizes))])
            return opened
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            with self._lock:
                del self._making[name]
            own.set_result(None)

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._used -= self._sizes.pop(name)
            with suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)


def rows_json(result: EmbeddingResult, *, wide: bool = False) -> Iterator[bytes]:
    """Write rows as JSON, piece by piece, so that a long result neither fills memory nor holds the GIL.

    Args:
        result: The rows.
        wide: Write numbers with the digits of a double.

    Yields:
        The objects in order, separated by commas and without brackets around them; about 128 rows at a time.
    """
    # NaN becomes null: an image or a text has no time.
    starts, ends = result.start_sec.tolist(), result.end_sec.tolist()
    for first in range(0, len(result.labels), ROWS_PER_CHUNK):
        last = min(first + ROWS_PER_CHUNK, len(result.labels))
        vectors = result.vectors[first:last].astype("float64") if wide else result.vectors[first:last]
        rows: list[dict[str, Any]] = [
            {
                "embedding": vector,
                "embedding_option": option or None,
                "embedding_scope": scope or None,
                "start_sec": start,
                "end_sec": end,
            }
            for vector, (option, scope), start, end in zip(
                vectors, result.labels[first:last], starts[first:last], ends[first:last], strict=True
            )
        ]
        if result.uncertainty is not None:
            for row, uncertainty in zip(rows, result.uncertainty[first:last], strict=True):
                row["embedding_uncertainty"] = uncertainty
        yield (b"," if first else b"") + orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def compressed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Compress a body with gzip, piece by piece."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    for block in blocks:
        if piece := compressor.compress(block):
            yield piece
    yield compressor.flush()
