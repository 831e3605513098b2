"""A media library in a local folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote_from_bytes

from embed_pipeline.errors import MediaError
from embed_pipeline.media.files import Listing, ListingBuilder, MediaFile, Selection, media_type_of, suffix_of
from embed_pipeline.media.keys import encode_partition_key
from embed_pipeline.media.store import ContentState, describe_error, gone, is_plain_path

_ADVICE = "Set EMBED_MEDIA (or `location`) to a folder with audio and video, an s3:// prefix, or a list of URLs."

# A folder that is being looked into: its path within the library ('' or with a slash at the end), and what it lies
# within, as pairs of device and inode, so that a link back up is noticed.
_Folder = tuple[str, tuple[tuple[int, int], ...]]
_Folders = list[_Folder]


class FolderStore:
    """The media files below a folder of this machine.

    Args:
        root: The folder.
        selection: Which files are wanted.
        settle_seconds: A file that was written more recently than this is left for the next listing, because its
            copying may not be done.
        follow_links: Whether symbolic links are followed wherever they lead. Without it, links to files are followed
            as long as they stay within the library, and links to folders are not: what they lead to within the
            library is listed under its own name.
    """

    state_is_cheap = True

    def __init__(self, root: Path, selection: Selection, *, settle_seconds: float, follow_links: bool) -> None:
        self._root = os.path.abspath(root)  # noqa: PTH100 - must not resolve links: the user's own name for it stays
        self._selection = selection
        self._settle_seconds = settle_seconds
        self._follow_links = follow_links
        self._uri = f"file://{quote_from_bytes(os.fsencode(self._root.rstrip('/')))}/"
        self._prefix = f"{self._root.rstrip('/')}/"

    @property
    def location(self) -> str:
        """The folder."""
        return self._root

    def list(self, now: float) -> Listing:
        """List the media files below the folder.

        Args:
            now: The time in seconds since 1970, against which files settle.

        Returns:
            The files, sorted by path, and what was left out.

        Raises:
            MediaError: If the folder is missing, is none, or may not be read.
        """
        try:
            status = Path(self._root).stat()
            if not stat.S_ISDIR(status.st_mode):
                raise MediaError(f"The media library {self._root!r} is not a folder. {_ADVICE}")
            with os.scandir(self._root):
                pass
        except FileNotFoundError:
            raise MediaError(f"The media library {self._root!r} does not exist. {_ADVICE}") from None
        except OSError as error:
            raise MediaError(
                f"The media library {self._root!r} cannot be read: {describe_error(error)}. Check permissions. "
                f"{_ADVICE}"
            ) from error
        listing = ListingBuilder()
        waiting: _Folders = [("", ((status.st_dev, status.st_ino),))]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(self._prefix + folder[0]) as entries:
                    for entry in entries:
                        self._take(entry, folder, now, listing, waiting)
            except OSError as error:
                path = folder[0].rstrip("/")
                problem = f"The folder {encode_partition_key(path)!r} cannot be read: {describe_error(error)}."
                listing.skip("unreadable", path, problem)
        return listing.build()

    def find(self, path: str) -> MediaFile:
        """Return the file at a path within the folder.

        Raises:
            MediaError: If there is none, or the path leads out of the library.
        """
        if not is_plain_path(path):
            raise MediaError(gone(encode_partition_key(path), self._root))
        full = self._prefix + path
        try:
            status = Path(full).stat()
        except OSError as error:
            message = gone(encode_partition_key(path), self._root)
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                message = f"{encode_partition_key(path)!r} cannot be read: {describe_error(error)}."
            raise MediaError(message) from None
        if not stat.S_ISREG(status.st_mode) or not self._stays_inside(full):
            raise MediaError(gone(encode_partition_key(path), self._root))
        return self._media_file(path, status)

    def state(self, file: MediaFile) -> ContentState:
        """Return size, times and inode of the file as they are now."""
        try:
            status = os.stat(self._prefix + file.path)  # noqa: PTH116 - asked for every file at every listing
        except OSError as error:
            raise self._unreadable(file, error) from error
        return ContentState(
            stamp=f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}",
            settled_at=max(status.st_mtime, status.st_ctime),
        )

    def open(self, file: MediaFile) -> BinaryIO:
        """Open the file for reading."""
        try:
            return open(self._prefix + file.path, "rb")  # noqa: PTH123 - the caller closes it
        except OSError as error:
            raise self._unreadable(file, error) from error

    def local_path(self, file: MediaFile) -> Path:
        """Return where the file is."""
        return Path(self._prefix + file.path)

    def signed_url(self, file: MediaFile, expires_sec: int) -> None:  # noqa: ARG002
        """Return None: nobody else can fetch a file of this machine."""
        return

    def _unreadable(self, file: MediaFile, error: OSError) -> MediaError:
        if isinstance(error, FileNotFoundError):
            return MediaError(gone(file.key, self._root))
        return MediaError(f"{file.key!r} cannot be read: {describe_error(error)}. Check its permissions.")

    def _take(
        self,
        entry: os.DirEntry[str],
        folder: _Folder,
        now: float,
        listing: ListingBuilder,
        waiting: _Folders,
    ) -> None:
        path = folder[0] + entry.name
        try:
            linked = entry.is_symlink()
            if entry.is_dir():
                self._take_folder(entry, folder, linked, listing, waiting)
                return
            suffix = suffix_of(entry.name)
            verdict = self._selection.verdict(path, suffix)
            if verdict != "wanted":
                listing.skip(verdict, path)
                return
            if linked and not self._stays_inside(entry.path):
                listing.skip("link", path, f"{encode_partition_key(path)!r} is a link that leads out of the library.")
                return
            status = entry.stat()
            if not stat.S_ISREG(status.st_mode):
                listing.skip("unsupported", path, f"{encode_partition_key(path)!r} is not a regular file.")
            elif abs(now - status.st_mtime) < self._settle_seconds:
                listing.skip("settling", path)
                listing.settling.add(encode_partition_key(path))
            else:
                listing.files.append(self._media_file(path, status))
        except FileNotFoundError:
            # A link that leads nowhere is worth a word; a file that vanished while we looked is everyday life.
            if entry.is_symlink():
                listing.skip("link", path, f"{encode_partition_key(path)!r} is a link that leads nowhere.")
        except OSError as error:
            problem = f"{encode_partition_key(path)!r} cannot be read: {describe_error(error)}."
            listing.skip("unreadable", path, problem)

    def _take_folder(
        self,
        entry: os.DirEntry[str],
        folder: _Folder,
        linked: bool,
        listing: ListingBuilder,
        waiting: _Folders,
    ) -> None:
        path = folder[0] + entry.name
        if entry.name.startswith("."):
            listing.skip("hidden", path)
        elif not self._selection.recursive:
            listing.skip("excluded", path)
        elif linked and not self._follow_links:
            problem = f"{encode_partition_key(path)!r} is a link to a folder; such links are not followed."
            listing.skip("link", path, problem)
        else:
            status = entry.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in folder[1]:
                problem = f"{encode_partition_key(path)!r} is a link to a folder that it lies within."
                listing.skip("link", path, problem)
            else:
                waiting.append((f"{path}/", (*folder[1], identity)))

    def _stays_inside(self, full: str) -> bool:
        if self._follow_links:
            return True
        real_root = os.path.realpath(self._root)
        return os.path.realpath(full).startswith(f"{real_root.rstrip('/')}/")

    def _media_file(self, path: str, status: os.stat_result) -> MediaFile:
        suffix = suffix_of(path)
        return MediaFile(
            key=encode_partition_key(path),
            path=path,
            uri=self._uri + quote_from_bytes(os.fsencode(path)),
            size=status.st_size,
            # A moved or copied file may bring an old time of writing with it; its inode has the time of arrival.
            modified=max(status.st_mtime, status.st_ctime),
            version=None,
            media_type=media_type_of(suffix),
            suffix=suffix,
        )
