"""A media library below a prefix of an object store, or of anything else that fsspec has a filesystem for."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from embed_pipeline.errors import ConfigurationError, MediaError
from embed_pipeline.media.files import Listing, ListingBuilder, MediaFile, Selection, media_type_of, suffix_of
from embed_pipeline.media.keys import encode_partition_key, printable_path
from embed_pipeline.media.store import ContentState, GuardedStream, describe_error, gone, is_plain_path
from embed_pipeline.redaction import without_credentials

# GCS changes the ETag with every change of metadata, but has the MD5 of the content; S3 and Azure have an ETag.
_VERSION_FIELDS = ("md5Hash", "ETag", "etag")
_BLOCK_BYTES = 2 << 20
_MODIFIED_FIELDS = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


class ObjectStore:
    """The media files below a prefix.

    Objects appear whole, so none has to settle. Credentials come by the store's own usual means.

    Args:
        location: The prefix, such as `s3://bucket/recordings`.
        selection: Which files are wanted.
        storage_options: Passed to fsspec.
    """

    state_is_cheap = True

    def __init__(self, location: str, selection: Selection, *, storage_options: Mapping[str, Any]) -> None:
        self._url = location
        self._location = without_credentials(location).rstrip("/")
        self._selection = selection
        self._storage_options = storage_options

    @property
    def location(self) -> str:
        """The prefix, without credentials."""
        return self._location

    def list(self, now: float) -> Listing:  # noqa: ARG002
        """List the media files below the prefix; a prefix without objects is an empty library.

        Raises:
            MediaError: If the bucket is missing or may not be read.
        """
        filesystem, root = self._filesystem
        try:
            if self._selection.recursive:
                found = cast("dict[str, dict[str, Any]]", filesystem.find(root, detail=True))
            else:
                entries = filesystem.ls(root, detail=True)
                found = {entry["name"]: entry for entry in entries if entry["type"] == "file"}
            if not found and not filesystem.exists(root) and not filesystem.exists(root.partition("/")[0]):
                raise FileNotFoundError
        except FileNotFoundError:
            raise MediaError(
                f"The media library {self._location!r} does not exist. Create the bucket, or change EMBED_MEDIA."
            ) from None
        except Exception as error:
            raise self._failure(error) from error
        if root in found:
            raise MediaError(
                f"The media library {self._location!r} is one object. Set EMBED_MEDIA to the prefix above it."
            )
        listing = ListingBuilder()
        for name, info in found.items():
            path = self._path_within(name, root)
            suffix = suffix_of(path)
            verdict = self._selection.verdict(path, suffix)
            if verdict != "wanted":
                listing.skip(verdict, path)
            elif not is_plain_path(path):
                problem = f"{encode_partition_key(path)!r} has an empty, '.' or '..' part in its name."
                listing.skip("invalid", path, problem)
            else:
                listing.files.append(self._media_file(path, info))
        return listing.build()

    def find(self, path: str) -> MediaFile:
        """Return the object at a path below the prefix.

        Raises:
            MediaError: If there is none, or the store cannot be asked.
        """
        filesystem, root = self._filesystem
        if not is_plain_path(path):
            raise MediaError(gone(encode_partition_key(path), self._location))
        try:
            info = filesystem.info(f"{root}/{path}" if root else path)
        except FileNotFoundError:
            info = {"type": "gone"}
        except Exception as error:
            raise self._failure(error) from error
        if info["type"] != "file":
            raise MediaError(gone(encode_partition_key(path), self._location))
        return self._media_file(path, info)

    def state(self, file: MediaFile) -> ContentState:
        """Return the object's ETag and size, else its time and size, as the listing has them."""
        if file.version is not None:
            identity = f"{file.version}:{file.size}"
            return ContentState(stamp=identity, given=identity)
        return ContentState(stamp=f"{file.size}:{file.modified}", settled_at=file.modified)

    def open(self, file: MediaFile) -> BinaryIO:
        """Open the object for reading; what is read is fetched in ranges."""
        filesystem, root = self._filesystem
        try:
            # Looking for a length goes back and forth between beginning and end: no block is to be fetched twice, and
            # by default a store's blocks are of up to 50 MB.
            stream = filesystem.open(
                f"{root}/{file.path}" if root else file.path, "rb", block_size=_BLOCK_BYTES, cache_type="blockcache"
            )
            return io.BufferedReader(GuardedStream(stream, self._failure))
        except FileNotFoundError:
            raise MediaError(gone(file.key, self._location)) from None
        except Exception as error:
            raise self._failure(error) from error

    def local_path(self, file: MediaFile) -> Path | None:  # noqa: ARG002
        """Return None: the object is elsewhere."""
        return None

    def signed_url(self, file: MediaFile, expires_sec: int) -> str | None:
        """Return a presigned address, or None where the store has no such thing."""
        filesystem, root = self._filesystem
        try:
            return cast("str", filesystem.sign(f"{root}/{file.path}" if root else file.path, expiration=expires_sec))
        except NotImplementedError:
            return None
        except Exception as error:
            raise self._failure(error) from error

    @cached_property
    def _filesystem(self) -> tuple[Any, str]:
        import fsspec

        try:
            # A cached listing would hide what is new; each listing has to ask.
            options = {"use_listings_cache": False, **self._storage_options}
            filesystem, root = fsspec.core.url_to_fs(self._url, **options)
        except ImportError as error:
            raise ConfigurationError(
                f"The media library {self._location!r} needs a package that is not installed: {error} "
                "For S3, Google Cloud Storage and Azure, install embed-pipeline[s3], [gcs] or [azure]."
            ) from error
        except ValueError as error:
            raise ConfigurationError(
                f"The media library {self._location!r} cannot be read: {describe_error(error)}. Set EMBED_MEDIA to a "
                "folder, an s3://, gs:// or az:// prefix, or a .txt, .csv or .jsonl file with URLs."
            ) from error
        return filesystem, root.rstrip("/")

    def _failure(self, error: Exception) -> MediaError:
        return MediaError(
            f"The media library {self._location!r} cannot be read: {describe_error(error)}. "
            "Check address and credentials."
        )

    @staticmethod
    def _path_within(name: str, root: str) -> str:
        return name[len(root) :].removeprefix("/") if name.startswith(root) else name

    def _media_file(self, path: str, info: Mapping[str, Any]) -> MediaFile:
        suffix = suffix_of(path)
        version = next((info[field] for field in _VERSION_FIELDS if info.get(field)), None)
        return MediaFile(
            key=encode_partition_key(path),
            path=path,
            uri=f"{self._location}/{printable_path(path)}",
            size=info.get("size"),
            modified=_seconds(next((info[field] for field in _MODIFIED_FIELDS if info.get(field)), None)),
            version=str(version).strip('"') if version is not None else None,
            media_type=media_type_of(suffix),
            suffix=suffix,
        )


def _seconds(moment: object) -> float | None:
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    if isinstance(moment, datetime):
        return moment.timestamp()
    return float(moment) if isinstance(moment, int | float) else None
