"""Content of an upload, wherever its bytes are: a path, bytes, an open file, or a function that opens one."""

from __future__ import annotations

import io
import mimetypes
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from embed_pipeline.client.errors import InvalidRequestError, UploadError

Bytes = bytes | bytearray | memoryview
Opener = Callable[[], BinaryIO]
# The official SDK's ways to name a file, and a path, a path as text, and a function that opens a file.
FileContent = str | os.PathLike[str] | Bytes | BinaryIO | Opener
File = (
    FileContent
    | tuple[str | None, FileContent]
    | tuple[str | None, FileContent, str | None]
    | tuple[str | None, FileContent, str | None, Mapping[str, str]]
)
_WAYS = "a path, bytes, a file opened with open(path, 'rb'), a function that opens one, or (name, one of these)"


class Content:
    """Bytes to upload.

    Args:
        name: File name, or None if it has none.
        content_type: MIME type; guessed from the name if it is None.
        headers: Headers of the form's part.
    """

    def __init__(
        self, name: str | None = None, content_type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._content_type = content_type
        self._headers = headers

    @property
    def described(self) -> str:
        """Name for messages."""
        return self.name or "the file"

    def size(self) -> int | None:
        """Return the number of bytes, or None if it is not known before they are read.

        Raises:
            UploadError: The file cannot be read.
        """
        raise NotImplementedError

    def modified_ns(self) -> int:
        """Return the time of the last change, in nanoseconds; 0 if it has none."""
        return 0

    def open(self, opened: ExitStack) -> bytes | BinaryIO:
        """Return the content from its beginning; what has to be closed is left to the stack."""
        raise NotImplementedError

    def read(self, offset: int, length: int) -> bytes:
        """Return a part of the content. Safe to use from many threads."""
        raise NotImplementedError

    def part(self, filename: str | None, opened: ExitStack) -> tuple[Any, ...]:
        """Return the part of a form, as httpx takes it."""
        name = filename or self.name or "upload"
        content_type = self._content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        part = (name, self.open(opened), content_type)
        return part if self._headers is None else (*part, dict(self._headers))


class _PathContent(Content):
    def __init__(self, path: Path, **about: Any) -> None:
        super().__init__(**about)
        self._path = path
        self.name = self.name or path.name

    @property
    def described(self) -> str:
        return str(self._path)

    def size(self) -> int:
        return self._stat().st_size

    def modified_ns(self) -> int:
        return self._stat().st_mtime_ns

    def _stat(self) -> os.stat_result:
        try:
            return self._path.stat()
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None

    def open(self, opened: ExitStack) -> BinaryIO:
        try:
            return opened.enter_context(self._path.open("rb"))
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None

    def read(self, offset: int, length: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> UploadError:
        return UploadError(f"{self._path} cannot be read ({getattr(error, 'strerror', None) or error}).")


class _BytesContent(Content):
    def __init__(self, content: Bytes, **about: Any) -> None:
        super().__init__(**about)
        self._content = bytes(content)

    def size(self) -> int:
        return len(self._content)

    def open(self, opened: ExitStack) -> bytes:  # noqa: ARG002 - there is nothing to close
        return self._content

    def read(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]


class _StreamContent(Content):
    """Open file of the caller, who closes it. It is sent from its beginning, wherever it stands."""

    def __init__(self, stream: BinaryIO, **about: Any) -> None:
        super().__init__(**about)
        if isinstance(stream, io.TextIOBase):
            raise InvalidRequestError("The file is opened as text: open it with open(path, 'rb').")
        if stream.closed:
            raise InvalidRequestError("The file is closed already.")
        self._stream = stream
        self._lock = threading.Lock()
        self._used = False
        named = getattr(stream, "name", None)
        if self.name is None and isinstance(named, str):
            self.name = Path(named).name

    def size(self) -> int | None:
        if not self._stream.seekable():
            return None
        with self._lock:
            position = self._stream.tell()
            size = self._stream.seek(0, io.SEEK_END)
            self._stream.seek(position)
        return size

    def open(self, opened: ExitStack) -> BinaryIO:  # noqa: ARG002 - the caller closes it
        if self._stream.seekable():
            self._stream.seek(0)
        elif self._used:
            raise UploadError(f"{self.described} cannot be read a second time, so it was not sent again.")
        self._used = True
        return self._stream

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            self._stream.seek(offset)
            return self._stream.read(length)


class _OpenerContent(Content):
    def __init__(self, opener: Opener, **about: Any) -> None:
        super().__init__(**about)
        self._opener = opener

    def size(self) -> int | None:
        with self._opener() as stream:
            return stream.seek(0, io.SEEK_END) if stream.seekable() else None

    def open(self, opened: ExitStack) -> BinaryIO:
        return opened.enter_context(self._opener())

    def read(self, offset: int, length: int) -> bytes:
        with self._opener() as stream:
            stream.seek(offset)
            return stream.read(length)


def content_of(file: File) -> Content:
    """Return the content that a caller named in one of the ways of `File`.

    Raises:
        InvalidRequestError: It is none of these.
    """
    about: dict[str, Any] = {}
    content: Any = file
    if isinstance(file, tuple):
        if not 2 <= len(file) <= 4:
            raise InvalidRequestError(f"A file is {_WAYS}; this is a tuple of {len(file)}.")
        about = dict(zip(("name", "content_type", "headers"), (file[0], *file[2:]), strict=False))
        content = file[1]
    if isinstance(content, bytes | bytearray | memoryview):
        return _BytesContent(content, **about)
    if isinstance(content, str | os.PathLike):
        return _PathContent(Path(content), **about)
    if hasattr(content, "read"):
        return _StreamContent(content, **about)
    if callable(content):
        return _OpenerContent(content, **about)
    raise InvalidRequestError(f"A file is {_WAYS}; this is a {type(content).__name__}.")
