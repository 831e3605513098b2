"""Files below one root, on a local disk or in an object store, replaced atomically."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from embed_pipeline.errors import DatasetError
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TEMPORARY_PREFIX = ".writing-"
_QUERY = re.compile(r"\?\S+")


@dataclass(frozen=True)
class StoredFile:
    """A file as a listing shows it.

    Args:
        path: Its path relative to the root.
        size_bytes: Its size.
        version: Changes whenever the file is replaced: the store's ETag or generation, else size and time of change.
        modified: Seconds since the epoch, or None where the store does not tell.
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

    @cached_property
    def _located(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        # container@account is how Azure names a place; only a password makes it a credential.
        if ":" in urlsplit(self.root).netloc.rpartition("@")[0]:
            raise DatasetError(
                f"The dataset root {without_credentials(self.root)!r} was given with a password in it. Leave it out, "
                "and let the store find credentials in its usual places (environment, profile, role)."
            )
        try:
            filesystem, base = url_to_fs(self.root, **self.options)
        except (ImportError, ValueError) as error:
            raise DatasetError(f"The dataset root {_clean(self.root)!r} cannot be opened: {_clean(error)}") from None
        return filesystem, base.rstrip("/") or "/"

    @property
    def filesystem(self) -> Any:
        """The fsspec file system."""
        return self._located[0]

    @cached_property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        protocol = self.filesystem.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def full(self, path: str) -> str:
        """Returns the path that the file system knows a file by."""
        return f"{self._located[1]}/{path}"

    def uri(self, path: str) -> str:
        """Returns how people and other tools name a file: a plain path on a local disk, else a URL."""
        full = self.full(path)
        return full if self.is_local else str(self.filesystem.unstrip_protocol(full))

    def put(self, path: str, data: bytes | memoryview) -> None:
        """Writes or replaces a small file atomically.

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
        """Lends a local file to write to and publishes it atomically once the block is left without an error.

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
        """Reads a whole file in one request, so that it cannot be replaced half way; None if there is none."""
        with self._failing("read", path):
            try:
                data: bytes = self.filesystem.cat_file(self.full(path))
            except FileNotFoundError:
                return None
            return data
        return None

    def info(self, path: str) -> StoredFile | None:
        """Looks one file up; None if there is none."""
        self._forget_listings()
        with self._failing("look up", path):
            try:
                details = self.filesystem.info(self.full(path))
            except FileNotFoundError:
                return None
            return self._stored(details) if details["type"] == "file" else None
        return None

    def folders(self, path: str) -> list[str]:
        """Lists the names of the folders within a folder, sorted; none if it does not exist."""
        if self.is_local:
            with self._failing("list", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return sorted(entry.name for entry in os.scandir(self.full(path)) if entry.is_dir())
            return []
        return sorted(
            details["name"].rstrip("/").rpartition("/")[2]
            for details in self._listing(path)
            if details["type"] == "directory"
        )

    def files(self, path: str) -> list[StoredFile]:
        """Lists the files directly within a folder, sorted by path; none if it does not exist."""
        return sorted(
            (self._stored(details) for details in self._listing(path) if details["type"] == "file"),
            key=lambda file: file.path,
        )

    def remove(self, path: str) -> bool:
        """Removes a file.

        Returns:
            Whether there was one.
        """
        with self._failing("remove", path):
            try:
                self.filesystem.rm_file(self.full(path))
            except FileNotFoundError:
                return False
        return True

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
            identity = f"{modified}-{details.get('ino', '')}"
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
            raise DatasetError(f"Cannot {verb} {self.uri(path)}: {type(error).__name__}: {_clean(error)}") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clean(text: object) -> str:
    """Takes queries out of a message: they may be signed."""
    return _QUERY.sub("?…", str(text))
