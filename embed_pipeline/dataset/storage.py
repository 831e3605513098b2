"""Files below one root, on a local disk or in an object store, replaced atomically."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from embed_pipeline.errors import DatasetError
from embed_pipeline.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pyarrow as pa

TEMPORARY_PREFIX = ".writing-"
DEFAULT_CONCURRENCY = 8
# A user name alone is no secret, and container@account is how Azure names a place; over HTTP it may be a token.
_CREDENTIALS = re.compile(r"://[^/@]*:[^/@]*@|\bhttps?://[^/@]*@|(?<!file)://[^?]*\?")
_SECRET_OPTION = re.compile(r"key|secret|token|password|passphrase|credential|connection_string|sas", re.IGNORECASE)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StoredFile:
    """A file as a listing shows it.

    Args:
        path: Its path relative to the root.
        size_bytes: Its size.
        version: Changes whenever the file is replaced: the store's ETag or generation, else size and time of change.
        modified: Seconds since the epoch; None where the store does not record it.
    """

    path: str
    size_bytes: int
    version: str
    modified: float | None


@dataclass(frozen=True)
class Storage:
    """The files below one root.

    Writing is atomic: a reader sees the old file or the new one, never a part. On a local disk a temporary file in the
    same folder is synced and renamed over the old one; an object store gets one put (or one multi-part upload, which
    comes into being when it is complete).

    Args:
        root: A local path, or a URL that fsspec understands, such as `s3://bucket/prefix`.
        options: Passed to the file system; credentials are better left to the store's own usual means.
    """

    root: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        refuse_credentials(self.root, "dataset root")

    @cached_property
    def _located(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            filesystem, base = url_to_fs(self.root, **self.options)
        except (ImportError, ValueError) as error:
            raise DatasetError(f"The dataset root {self.root!r} cannot be opened: {self._redacted(error)}") from None
        return filesystem, base.rstrip("/") or "/"

    @property
    def filesystem(self) -> Any:
        """The fsspec file system."""
        return self._located[0]

    @cached_property
    def is_local(self) -> bool:
        """True if the root is a folder of this machine."""
        protocol = self.filesystem.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def full(self, path: str) -> str:
        """Return the path of a file within the file system."""
        return f"{self._located[1]}/{path}"

    def uri(self, path: str) -> str:
        """Return the name of a file for people and other tools: a plain path on a local disk, else a URL."""
        full = self.full(path)
        return full if self.is_local else str(self.filesystem.unstrip_protocol(full))

    def put(self, path: str, data: bytes | memoryview) -> None:
        """Write or replace a small file atomically.

        Args:
            path: The file, relative to the root.
            data: Its whole content.

        Raises:
            DatasetError: It could not be written; whatever was there before still is.
        """
        if not self.is_local:
            with self._failing("write", path):
                self.filesystem.pipe_file(self.full(path), bytes(data))
            return
        with self.publishing(path) as temporary, temporary.open("wb") as file:
            file.write(data)

    @contextlib.contextmanager
    def publishing(self, path: str) -> Iterator[Path]:
        """Lend a local file to write to and publish it atomically once the block is left without an error.

        Args:
            path: The file to publish, relative to the root.

        Yields:
            The local file to write.

        Raises:
            DatasetError: It could not be written or published; whatever was there before still is.
        """
        with self._failing("write", path):
            if self.is_local:
                target = Path(self.full(path))
                target.parent.mkdir(parents=True, exist_ok=True)
                # A leading dot hides it from every reader that walks the folder.
                temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}.tmp"
                try:
                    yield temporary
                    _sync(temporary)
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
                _sync(target.parent)
            else:
                with tempfile.TemporaryDirectory(prefix="embed-pipeline-") as folder:
                    temporary = Path(folder) / "file"
                    yield temporary
                    self.filesystem.put_file(str(temporary), self.full(path))

    def read(self, path: str) -> bytes | None:
        """Read a whole file in one request, so that it cannot be replaced half way; None if there is none."""
        with self._failing("read", path):
            try:
                data: bytes = self.filesystem.cat_file(self.full(path))
            except FileNotFoundError:
                return None
            return data
        return None

    def read_end(self, path: str, size_bytes: int, length: int) -> bytes | None:
        """Read the last bytes of a file in one request.

        Args:
            path: The file, relative to the root.
            size_bytes: The file's size as it was listed.
            length: The number of bytes, at most the size.

        Returns:
            The bytes, which are others if an object was replaced since it was listed; None if there is no such file.
        """
        with self._failing("read", path):
            try:
                if self.is_local:
                    with Path(self.full(path)).open("rb", buffering=0) as file:
                        size = os.fstat(file.fileno()).st_size
                        file.seek(max(0, size - length))
                        return file.read(length)
                data: bytes = self.filesystem.cat_file(
                    self.full(path), start=max(0, size_bytes - length), end=size_bytes
                )
            except FileNotFoundError:
                return None
            return data
        return None

    def open(self, path: str) -> pa.NativeFile | None:
        """Open a file for a Parquet reader; what is read of it is of one state, even if it is replaced meanwhile.

        On a local disk the reader reads the parts that it needs; from an object store the whole file comes at once.

        Args:
            path: The file, relative to the root.

        Returns:
            The file, which the caller closes; None if there is none.
        """
        import pyarrow as pa

        if not self.is_local:
            data = self.read(path)
            return None if data is None else pa.BufferReader(data)
        with self._failing("read", path):
            try:
                return pa.OSFile(self.full(path))
            except FileNotFoundError:
                return None
        return None

    def info(self, path: str) -> StoredFile | None:
        """Look one file up; None if there is none."""
        if self.is_local:
            return self._local_file(self.full(path))
        self._forget_listings()
        with self._failing("look up", path):
            try:
                details = self.filesystem.info(self.full(path))
            except FileNotFoundError:
                return None
            return self._stored(details) if details["type"] == "file" else None
        return None

    def folders(self, path: str) -> list[str]:
        """List the names of the folders within a folder, sorted; none if it does not exist."""
        if self.is_local:
            with self._failing("list", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return sorted(entry.name for entry in os.scandir(self.full(path)) if entry.is_dir())
            return []
        return sorted(
            details["name"].rstrip("/").rpartition("/")[2]
            for details in self._listing(path)
            if details["type"] == "directory"
        )

    def files(self, path: str) -> Iterator[StoredFile]:
        """List the files directly within a folder, sorted by path; none if it does not exist.

        The names come from one listing. On a local disk a file's size and time are looked up when it is taken, and a
        file that is gone by then is left out.
        """
        if self.is_local:
            folder = self.full(path)
            for name in self._local_names(path):
                if (stored := self._local_file(f"{folder}/{name}")) is not None:
                    yield stored
            return
        listed = [details for details in self._listing(path) if details["type"] == "file"]
        listed.sort(key=lambda details: str(details["name"]))
        for details in listed:
            yield self._stored(details)

    def remove(self, path: str) -> bool:
        """Remove a file.

        Returns:
            True if there was one.
        """
        with self._failing("remove", path):
            try:
                self.filesystem.rm_file(self.full(path))
            except FileNotFoundError:
                return False
        return True

    def _local_names(self, path: str) -> list[str]:
        with self._failing("list", path):
            try:
                with os.scandir(self.full(path)) as entries:
                    return sorted(entry.name for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return []

    def _local_file(self, full: str) -> StoredFile | None:
        with self._failing("look up", full.removeprefix(self._located[1]).lstrip("/")):
            try:
                found = os.stat(full)  # noqa: PTH116 - a path object per file would double the time of a listing
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISREG(found.st_mode):
                return None
            return self._stored({"name": full, "size": found.st_size, "mtime": found.st_mtime, "ino": found.st_ino})
        return None

    def _listing(self, path: str) -> list[dict[str, Any]]:
        self._forget_listings()
        with self._failing("list", path):
            try:
                found: list[dict[str, Any]] = self.filesystem.ls(self.full(path), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return found
        return []

    def _forget_listings(self) -> None:
        # Object stores' file systems remember listings; other processes write to this dataset.
        if not self.is_local:
            self.filesystem.invalidate_cache()

    def _stored(self, details: Mapping[str, Any]) -> StoredFile:
        size = int(details.get("size") or 0)
        modified = details.get("mtime") or details.get("LastModified") or details.get("updated")
        modified = modified or details.get("last_modified") or details.get("created")
        seconds = modified.timestamp() if isinstance(modified, datetime) else modified
        identity = next((str(details[key]) for key in ("ETag", "etag", "generation") if details.get(key)), None)
        if identity is None:
            # A renamed temporary file brings a new inode, so two writes within one clock tick still differ.
            identity = f"{seconds}-{details.get('ino', '')}"
        path = str(details["name"]).removeprefix(self._located[1]).lstrip("/")
        return StoredFile(
            path=path,
            size_bytes=size,
            version=f"{size}-{identity.strip(chr(34))}",
            modified=float(seconds) if isinstance(seconds, int | float) else None,
        )

    @contextlib.contextmanager
    def _failing(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except DatasetError:
            raise
        except Exception as error:
            # File systems raise errors of many libraries (botocore, aiohttp, google, azure) beside OSError.
            if not isinstance(error, OSError) and type(error).__module__.split(".")[0] in {
                "embed_pipeline",
                "builtins",
            }:
                raise
            raise DatasetError(
                f"Cannot {verb} {self.uri(path)}: {type(error).__name__}: {self._redacted(error)}"
            ) from None

    def _redacted(self, error: object) -> str:
        return redact(str(error), *secret_values(self.options))


def refuse_credentials(url: str, name: str) -> None:
    """Refuse a URL that holds a password, a token or a query, which may be a signature.

    Args:
        url: A URL or a local path.
        name: The setting that it is, for the error.

    Raises:
        DatasetError: The URL holds one; the message does not.
    """
    if _CREDENTIALS.search(url):
        raise DatasetError(
            f"The {name} {redact(url)!r} was given with a password, a token or a query in it. Leave it out, and let "
            "the store find credentials in its usual places (environment, profile, role)."
        )


def prefetch(
    work: Callable[[Item], Result], items: Iterable[Item], *, concurrency: int = DEFAULT_CONCURRENCY
) -> Iterator[Result]:
    """Map in threads, in order, and never more than a few results ahead of the consumer.

    Args:
        work: The function.
        items: Its arguments; taken as they are needed.
        concurrency: The number of calls at once, and of results that wait.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(concurrency, thread_name_prefix="dataset") as pool:
        pending = deque(pool.submit(work, item) for item in islice(waiting, concurrency))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(work, item) for item in islice(waiting, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def secret_values(options: Mapping[str, Any]) -> list[str]:
    """Return the values of a store's options that must not be shown, such as keys and tokens, nested ones too."""
    found: list[str] = []
    for name, value in options.items():
        if isinstance(value, str) and _SECRET_OPTION.search(name):
            found.append(value)
        elif isinstance(value, dict):
            found += secret_values(value)
    return found


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
