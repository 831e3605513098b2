"""A media library that is a list of URLs."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import SplitResult, unquote, urlsplit

from embed_pipeline.errors import MediaError
from embed_pipeline.media.files import Listing, ListingBuilder, MediaFile, Selection, media_type_of, suffix_of
from embed_pipeline.media.keys import encode_partition_key, printable_path
from embed_pipeline.media.store import ContentState, GuardedStream, describe_error, gone, is_plain_path
from embed_pipeline.redaction import without_credentials

# Fetched at a time: a header is mostly found within the first megabyte.
_BLOCK_BYTES: Final = 1 << 20

# A file from a server that cannot serve ranges is kept in memory up to this size, and on disk beyond it.
_SPOOL_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True, repr=False)
class _Entry:
    """One line of a manifest; the URL may hold a secret, so it has no repr."""

    file: MediaFile
    url: str


class ManifestStore:
    """The media files that a `.txt`, `.csv` or `.jsonl` file lists by their http(s) URLs.

    A text file has one URL a line; lines that begin with `#` are comments. A CSV file has a column `url`, a JSON-lines
    file objects with `url`, or bare strings. Both may also give `path` (the path within the library, instead of host
    and path of the URL), `size` in bytes, and `version` (anything that changes with the content; saves asking the
    server).

    Args:
        location: Where the manifest is: a local path, or what fsspec can open.
        selection: Which files are wanted.
        storage_options: Passed to fsspec for opening the manifest, if it is not local.
    """

    state_is_cheap = False

    def __init__(self, location: str, selection: Selection, *, storage_options: Mapping[str, Any]) -> None:
        self._url = location
        self._location = without_credentials(location)
        self._selection = selection
        self._storage_options = storage_options
        self._entries: dict[str, _Entry] | None = None

    @property
    def location(self) -> str:
        """Location of the manifest, without credentials or query."""
        return self._location

    def list(self, now: float) -> Listing:  # noqa: ARG002
        """Read the manifest; no server is asked.

        Raises:
            MediaError: If the manifest is missing or cannot be read.
        """
        listing = ListingBuilder()
        entries: dict[str, _Entry] = {}
        numbers: dict[str, int] = {}
        for number, fields in self._lines(listing):
            try:
                entry = _entry(fields)
            except ValueError as error:
                listing.skip("invalid", problem=f"Line {number} of {self._location!r}: {error}.")
                continue
            path = entry.file.path
            verdict = self._selection.verdict(path, entry.file.suffix)
            if verdict != "wanted":
                listing.skip(verdict, path)
            elif path not in entries:
                entries[path], numbers[path] = entry, number
            elif entries[path].url != entry.url:
                listing.skip(
                    "invalid",
                    path,
                    f"Line {number} of {self._location!r}: has the path of line {numbers[path]}, but another URL; give "
                    "each a `path` of its own in a .csv or .jsonl manifest.",
                )
        self._entries = entries
        listing.files.extend(entry.file for entry in entries.values())
        return listing.build()

    def find(self, path: str) -> MediaFile:
        """Return the file with a path within the library, with its size and version if the server has them.

        Raises:
            MediaError: If the manifest does not list it, or the server does not have it.
        """
        file = self._entry_at(path).file
        if file.size is not None and file.version is not None:
            return file
        info = self._info(file)
        return MediaFile(
            key=file.key,
            path=file.path,
            uri=file.uri,
            size=info.get("size"),
            modified=None,
            version=_version(info),
            media_type=file.media_type,
            suffix=file.suffix,
        )

    def state(self, file: MediaFile) -> ContentState:
        """Ask the server for the file's ETag and size, else for its time and size."""
        version, size = file.version, file.size
        if version is None:
            info = self._info(file)
            version, size = _version(info), info.get("size")
            if version is None:
                # Without any of these there is no way to notice a change but to fetch everything again, every time.
                return ContentState(stamp=f"{info.get('Last-Modified', '')}:{size}")
        return ContentState(stamp=f"{version}:{size}", given=f"{version}:{size}")

    def open(self, file: MediaFile) -> BinaryIO:
        """Open the file for reading in ranges; fetched whole if its server cannot serve ranges."""
        url = self._entry_at(file.path).url
        try:
            # Looking for a length goes back and forth between beginning and end: no block is to be fetched twice.
            stream = self._http.open(url, "rb", block_size=_BLOCK_BYTES, cache_type="blockcache")
            try:
                if stream.seekable():
                    stream.seek(-1, io.SEEK_END)  # a server that heeds no ranges would only be found out later
                    stream.read(1)
                    stream.seek(0)
                    return io.BufferedReader(GuardedStream(stream, lambda error: _failure(file, error)))
            except ValueError:
                pass
            stream.close()
            return self._fetched_whole(url)
        except Exception as error:
            raise _failure(file, error) from None

    def local_path(self, file: MediaFile) -> Path | None:  # noqa: ARG002
        """Return None: the file is elsewhere."""
        return None

    def signed_url(self, file: MediaFile, expires_sec: int) -> str:  # noqa: ARG002
        """Return the address as the manifest gives it, with its query."""
        return self._entry_at(file.path).url

    def _fetched_whole(self, url: str) -> BinaryIO:
        spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
        with self._http.open(url, "rb", block_size=0) as stream:
            while chunk := stream.read(_BLOCK_BYTES):
                spool.write(chunk)
        spool.seek(0)
        return cast("BinaryIO", spool)

    def _entry_at(self, path: str) -> _Entry:
        if self._entries is None or path not in self._entries:
            self.list(0)
        entry = (self._entries or {}).get(path)
        if entry is None:
            raise MediaError(gone(encode_partition_key(path), self._location))
        return entry

    def _info(self, file: MediaFile) -> dict[str, Any]:
        url = self._entry_at(file.path).url
        try:
            return cast("dict[str, Any]", self._http.info(url))
        except Exception as error:
            # The error's own text holds the URL with its query; so would the chain of causes.
            raise _failure(file, error) from None

    @cached_property
    def _http(self) -> Any:
        import fsspec

        return fsspec.filesystem("http", encoded=True, use_listings_cache=False)

    def _lines(self, listing: ListingBuilder) -> Iterator[tuple[int, Mapping[str, Any]]]:
        text = self._text()
        ending = urlsplit(self._url).path.lower() if "://" in self._url else self._url.lower()
        if ending.endswith(".csv"):
            yield from _csv_lines(text)
        elif ending.endswith(".jsonl"):
            for number, line in enumerate(text.splitlines(), 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError:
                    listing.skip("invalid", problem=f"Line {number} of {self._location!r}: is not JSON.")
                    continue
                yield number, value if isinstance(value, dict) else {"url": value}
        else:
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip() and not line.lstrip().startswith("#"):
                    yield number, {"url": line}

    def _text(self) -> str:
        import fsspec

        try:
            with fsspec.open(self._url, "rb", **self._storage_options) as stream:
                return cast("bytes", stream.read()).decode("utf-8-sig")
        except FileNotFoundError as error:
            if error.__cause__ is not None:
                raise MediaError(f"The media library {self._location!r} cannot be read: {_why(error)}.") from None
            raise MediaError(
                f"The media library {self._location!r} does not exist. Set EMBED_MEDIA (or `location`) to a folder, a "
                "prefix, or a .txt, .csv or .jsonl file with URLs."
            ) from None
        except UnicodeDecodeError:
            raise MediaError(
                f"The media library {self._location!r} is not a list of URLs: it is no UTF-8 text."
            ) from None
        except Exception as error:
            raise MediaError(f"The media library {self._location!r} cannot be read: {describe_error(error)}.") from None


def _csv_lines(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = csv.reader(io.StringIO(text))
    header: list[str] | None = None
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if header is None:
            header = [cell.strip().lower() for cell in row]
            if "url" in header:
                continue
            header = ["url"]
        yield rows.line_num, dict(zip(header, row, strict=False))


def _entry(fields: Mapping[str, Any]) -> _Entry:
    """Return the entry of a line's fields; a ValueError names what is wrong with it, without repeating the URL."""
    url = fields.get("url")
    if not isinstance(url, str) or not url.strip():
        raise ValueError("has no URL")
    url = url.strip()
    try:
        parts = urlsplit(url)
        host = _host(parts)
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise ValueError("is not an http:// or https:// URL")
    given_path = fields.get("path")
    path = str(given_path).strip() if given_path else host + unquote(parts.path, errors="surrogateescape")
    if not is_plain_path(path):
        raise ValueError("has an empty, '.' or '..' part in its path")
    size, version = fields.get("size"), fields.get("version")
    if size not in (None, "") and not str(size).isdecimal():
        raise ValueError("has a size that is not a number of bytes")
    suffix = suffix_of(path) or suffix_of(parts.path)
    return _Entry(
        file=MediaFile(
            key=encode_partition_key(path),
            path=path,
            uri=f"{parts.scheme.lower()}://{host}{printable_path(parts.path)}",
            size=int(str(size)) if size not in (None, "") else None,
            modified=None,
            version=str(version) if version not in (None, "") else None,
            media_type=media_type_of(suffix),
            suffix=suffix,
        ),
        url=url,
    )


def _host(parts: SplitResult) -> str:
    parts.port  # noqa: B018 - raises ValueError where it is no number
    return parts.netloc.rpartition("@")[2].lower()


def _version(info: Mapping[str, Any]) -> str | None:
    tag = info.get("ETag")
    return str(tag).removeprefix("W/").strip('"') if tag else None


def _failure(file: MediaFile, error: Exception) -> MediaError:
    return MediaError(f"{file.key!r} cannot be fetched: {_why(error)}. Check the URL in the manifest.")


def _why(error: BaseException) -> str:
    # fsspec says "not found" for whatever went wrong; what really happened is its cause, or its cause's cause.
    while error.__cause__ is not None and not hasattr(error, "status"):
        error = error.__cause__
    status = getattr(error, "status", None)
    if status == HTTPStatus.NOT_FOUND:
        return "its server does not have it (404)"
    return f"its server answers {status}" if status else describe_error(error)
