"""The interface between a media library and the place where its files are."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from embed_pipeline.errors import MediaError
from embed_pipeline.media.files import Listing, MediaFile
from embed_pipeline.redaction import redact


@dataclass(frozen=True, slots=True)
class ContentState:
    """State of a file's content, as a place knows it without reading the file.

    Args:
        stamp: Changes whenever the content may have changed; the address in the cache of fingerprints.
        given: The store's own identity of the content (ETag and size), from which the fingerprint is made without
            reading a byte; None where the bytes have to be read.
        settled_at: Time since when the content has been what it is, in seconds since 1970, or None if that is not
            known. A stamp younger than the clock is fine may stand for two contents, and is not remembered.
    """

    stamp: str
    given: str | None = None
    settled_at: float | None = None


class Store(Protocol):
    """A place with media files. Every method raises `MediaError` in words that name the file or the library."""

    #: Whether `state` can be asked for every file at every listing, or costs a request each.
    state_is_cheap: bool

    @property
    def location(self) -> str:
        """Location of the place, without credentials or query."""
        ...

    def list(self, now: float) -> Listing:
        """List the media files; `now` is in seconds since 1970."""
        ...

    def find(self, path: str) -> MediaFile:
        """Return the one file at a path within the library."""
        ...

    def state(self, file: MediaFile) -> ContentState:
        """Return what is known of the file's content as it is now."""
        ...

    def open(self, file: MediaFile) -> BinaryIO:
        """Open the file for reading, with seeking."""
        ...

    def local_path(self, file: MediaFile) -> Path | None:
        """Return where the file is on this machine, or None."""
        ...

    def signed_url(self, file: MediaFile, expires_sec: int) -> str | None:
        """Return an address under which anyone can fetch the file for that long, or None if there is no such thing."""
        ...


class GuardedStream(io.RawIOBase):
    """A remote file whose failures while it is read become `MediaError`, without its address.

    Args:
        stream: The open file, as fsspec gives it.
        failure: Returns the error to raise for one of the filesystem.
    """

    def __init__(self, stream: Any, failure: Callable[[Exception], MediaError]) -> None:
        super().__init__()
        self._stream = stream
        self._failure = failure

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer and return the number of bytes; 0 at the end."""
        try:
            data = self._stream.read(len(buffer))
        except Exception as error:
            raise self._failure(error) from None
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position."""
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        """Return the position."""
        return int(self._stream.tell())

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._stream.close()
        super().close()


def describe_error(error: BaseException) -> str:
    """Return the text of a filesystem's error, in one line and without credentials or queries."""
    if isinstance(error, OSError) and error.strerror:
        return redact(error.strerror)
    text = " ".join(redact(str(error)).split()).rstrip(".")
    return f"{text[:300]} ({type(error).__name__})" if text else type(error).__name__


def is_plain_path(path: str) -> bool:
    """Return whether a path stays within its library: relative, and without empty, `.` and `..` parts."""
    return not {"", ".", ".."} & set(path.split("/")) and "\0" not in path


def gone(key: str, library: str) -> str:
    """Return the message for a file that is not there any more."""
    return f"{key!r} is not in the media library {library!r} any more. Put the file back, or delete its partition."
