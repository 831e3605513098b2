"""The media library: the place of the files that are to be embedded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from embed_pipeline.errors import ConfigurationError, MediaError
from embed_pipeline.media.files import DEFAULT_EXTENSIONS, Listing, MediaFile, MediaInfo, Selection
from embed_pipeline.media.fingerprints import FingerprintCache, Fingerprinter
from embed_pipeline.media.folder import FolderStore
from embed_pipeline.media.keys import decode_partition_key
from embed_pipeline.media.store import Store

_MANIFEST_ENDINGS = (".txt", ".csv", ".jsonl")


class MediaLibrary:
    """A local folder, an object-store prefix, or a manifest of URLs.

    Making one reads nothing; it may be shared between threads.

    Args:
        location: A folder (`/srv/recordings`, `file:///srv/recordings`), a prefix (`s3://bucket/recordings`, and
            whatever else fsspec has a filesystem for), or a manifest: a `.txt`, `.csv` or `.jsonl` file that lists
            http(s) URLs.
        include: Patterns of which a file's path has to match one, such as `interviews/*`; none means all files.
        exclude: Patterns of which a file's path may match none.
        extensions: The endings that are taken for media.
        recursive: Whether folders within the library are looked into.
        settle_seconds: A local file written more recently than this is left for the next listing, because its copying
            may not be done.
        follow_links: Whether symbolic links are followed out of the library, and links to folders at all.
        recheck_seconds: How long a URL's fingerprint holds before its server is asked again.
        storage_options: Passed to fsspec; credentials are better left to the store's own usual means.
        cache: The SQLite file in which fingerprints are kept; by default one in the user's cache folder.

    Raises:
        ConfigurationError: If the location is empty or of a kind that cannot be read.
    """

    def __init__(
        self,
        location: str | PathLike[str],
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        extensions: Sequence[str] = DEFAULT_EXTENSIONS,
        recursive: bool = True,
        settle_seconds: float = 5.0,
        follow_links: bool = False,
        recheck_seconds: float = 3600.0,
        storage_options: Mapping[str, Any] | None = None,
        cache: str | PathLike[str] | None = None,
    ) -> None:
        self._cache_path = Path(cache) if cache is not None else None
        self._recheck_seconds = recheck_seconds
        self._fingerprinter: Fingerprinter | None = None
        self._store = _store_for(
            str(location),
            Selection(include, exclude, extensions, recursive),
            settle_seconds=settle_seconds,
            follow_links=follow_links,
            storage_options=dict(storage_options or {}),
        )

    def __repr__(self) -> str:
        return f"MediaLibrary({self.location!r})"

    @property
    def location(self) -> str:
        """Location of the library, without credentials or query."""
        return self._store.location

    def list(self, now: float | None = None) -> Listing:
        """List the media files.

        Args:
            now: The time in seconds since 1970 against which files settle; by default the clock's.

        Returns:
            The files, sorted by path; what was left out and why. An empty library is an empty listing.

        Raises:
            MediaError: If the library is missing, is not what it should be, or cannot be read.
        """
        return self._store.list(time.time() if now is None else now)

    def file(self, key: str) -> MediaFile:
        """Return the media file with a partition key, as it is now.

        Raises:
            MediaError: If it is gone, or the key is none.
        """
        return self._store.find(decode_partition_key(key))

    def fingerprint(self, file: MediaFile) -> str:
        """Return the identity of a file's content: 32 hexadecimal digits.

        They are the first digits of the SHA-256 of its bytes, or, where the store gives an ETag, of ETag and size.

        Raises:
            MediaError: If the file is gone, cannot be read, or is being written to.
        """
        return self._fingerprints().one(file)

    def fingerprints(
        self,
        files: Sequence[MediaFile],
        budget_sec: float | None = None,
        *,
        on_problem: Callable[[MediaFile, MediaError], None] | None = None,
    ) -> dict[str, str]:
        """Return the fingerprints of many files, as far as they can be had within a time.

        Args:
            files: The files.
            budget_sec: The time in seconds; None waits for all. A file whose reading is under way when the time is up
                is read to its end in the background, and its fingerprint remembered for the next call.
            on_problem: Called with each file that cannot be read, and why.

        Returns:
            Fingerprint by partition key. A file that is missing was not reached, or cannot be read.
        """
        return self._fingerprints().many(files, budget_sec, on_problem)

    def probe(self, file: MediaFile) -> MediaInfo:
        """Return length and content of a file; reads more than the header only where that does not hold the length.

        Raises:
            UnplayableMediaError: If it is empty, encrypted, or no audio or video can be read from it.
            MediaError: If the file is gone or cannot be read.
        """
        from embed_pipeline.media.probe import probe_stream

        with self.open(file) as stream:
            return probe_stream(stream, file.key)

    def open(self, file: MediaFile) -> BinaryIO:
        """Open a file for reading, with seeking.

        Raises:
            MediaError: If the file is gone or cannot be read.
        """
        return self._store.open(file)

    def size(self, file: MediaFile) -> int:
        """Return the size of a file in bytes, asking the store where the listing has none.

        Raises:
            MediaError: If the file is gone, or its store does not know the size.
        """
        size = file.size if file.size is not None else self._store.find(file.path).size
        if size is None:
            raise MediaError(f"{file.key!r} is of unknown size: its server does not say.")
        return size

    def local_path(self, file: MediaFile) -> Path | None:
        """Return where a file is on this machine, or None if it is elsewhere."""
        return self._store.local_path(file)

    def signed_url(self, file: MediaFile, expires_sec: int = 3600) -> str | None:
        """Return an address under which anyone may fetch a file; it may hold a secret, so keep it out of logs.

        Args:
            file: The file.
            expires_sec: How long the address should hold, in seconds; one from a manifest holds as long as it does.

        Returns:
            The address, or None where there is no such thing.
        """
        return self._store.signed_url(file, expires_sec)

    def _fingerprints(self) -> Fingerprinter:
        if self._fingerprinter is None:
            path = self._cache_path
            if path is None:
                from platformdirs import user_cache_path

                path = user_cache_path("embed_pipeline", appauthor=False) / "fingerprints.sqlite"
            cache = FingerprintCache(path)
            self._fingerprinter = Fingerprinter(self._store, cache, recheck_seconds=self._recheck_seconds)
        return self._fingerprinter


def _store_for(
    location: str,
    selection: Selection,
    *,
    settle_seconds: float,
    follow_links: bool,
    storage_options: dict[str, Any],
) -> Store:
    if not location.strip():
        raise ConfigurationError(
            "The media library has no location. Set EMBED_MEDIA to a folder, a prefix or a manifest."
        )
    scheme = location.partition("://")[0].lower() if "://" in location else ""
    # A name on this machine may hold `?` and `#`, which would end the path of a URL.
    path = urlsplit(location).path if scheme else location
    if path.lower().endswith(_MANIFEST_ENDINGS) and not Path(location).is_dir():
        from embed_pipeline.media.manifest import ManifestStore

        return ManifestStore(location, selection, storage_options=storage_options)
    if scheme in ("http", "https"):
        raise ConfigurationError(
            f"{scheme}:// locations cannot be listed. Write the URLs into a .txt, .csv or .jsonl file, one a line, and "
            "set EMBED_MEDIA to that."
        )
    if scheme not in ("", "file"):
        from embed_pipeline.media.object_store import ObjectStore

        return ObjectStore(location, selection, storage_options=storage_options)
    folder = Path(unquote(path) if scheme == "file" else location).expanduser()
    return FolderStore(folder, selection, settle_seconds=settle_seconds, follow_links=follow_links)
