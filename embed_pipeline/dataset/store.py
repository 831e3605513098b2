"""The files of segments: one immutable Parquet file per media file and settings, replaced atomically."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from embed_pipeline.dataset import codec, paths
from embed_pipeline.dataset.codec import ParquetEncoding
from embed_pipeline.dataset.schema import FileMetadata
from embed_pipeline.dataset.segments import MediaSegments
from embed_pipeline.dataset.storage import Storage, prefetch, refuse_credentials
from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from embed_pipeline.dataset.storage import StoredFile

# A footer is 6 to 8 KB; one that is longer takes a second request.
_FOOTER_BYTES = 16 * 1024
# Beyond so many lookups of single files one listing of everything is cheaper.
_LOOKUPS_AT_MOST = 100


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written.

    Args:
        uri: The Parquet file: a plain path on a local disk, else a URL.
        path: The same, relative to the root.
        rows: The number of rows.
        size_bytes: Its size.
        replaced: Files of other vector spaces that held this media file under the same settings and were removed.
    """

    uri: str
    path: str
    rows: int
    size_bytes: int
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class SegmentFile:
    """A file of segments, as a listing shows it.

    Args:
        path: The Parquet file, relative to the root.
        uri: The same for people and other tools.
        space: The vector space of its vectors.
        settings_digest: The settings they were made under.
        size_bytes: The file's size.
        version: Changes whenever the file is replaced.
        modified: When it was written, in seconds since the epoch; None where the store does not record it.
    """

    path: str
    uri: str
    space: str
    settings_digest: str
    size_bytes: int
    version: str
    modified: float | None

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class SegmentStore:
    """The segments of a media library, kept as Parquet below one root.

    Any number of processes may write different media files and read at the same time. Two that write the same media
    file leave the result of the one that finished last.

    Args:
        root: A local path, or a URL that fsspec understands, such as `s3://bucket/prefix`.
        storage_options: Passed to the file system; credentials are better left to the store's own usual means.
        encoding: Layout of rows in the files.

    Raises:
        DatasetError: The root has a password in it.
    """

    root: str
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    encoding: ParquetEncoding = field(default_factory=ParquetEncoding)

    def __post_init__(self) -> None:
        # Refused before anything can show it.
        refuse_credentials(self.root, "dataset root")

    @cached_property
    def storage(self) -> Storage:
        """The files below the root."""
        return Storage(self.root, dict(self.storage_options or {}))

    def write(self, segments: MediaSegments) -> WrittenFile:
        """Write one media file's segments, in place of those that are there for it under the same settings.

        The new file is in place before one of another vector space is removed, so a crash never leaves nothing.

        Args:
            segments: The segments.

        Raises:
            DatasetError: The file could not be written; the one that was there before still is.
        """
        path = paths.segment_path(segments.media, segments.space, segments.settings_digest)
        data = codec.encode(segments.to_arrow(self.encoding.layout), self.encoding)
        self.storage.put(path, data)
        replaced = []
        for space in self.spaces():
            if space != segments.space:
                other = paths.segment_path(segments.media, space, segments.settings_digest)
                if self.storage.remove(other):
                    replaced.append(other)
        if replaced and self.storage.info(path) is None:
            # Another process wrote the same media file in that other space, and each took the other's for the old one.
            self.storage.put(path, data)
        return WrittenFile(self.storage.uri(path), path, len(segments), len(data), tuple(replaced))

    def find(self, media: str, settings_digest: str) -> list[SegmentFile]:
        """Find the files that hold one media file under one set of settings, newest first.

        There is at most one, except after a crash between writing a file of a new vector space and removing the old.

        Args:
            media: The partition key.
            settings_digest: The digest of the embedding settings.
        """
        found: list[SegmentFile] = []
        # Twice, since it may just have moved from a space that was not looked at yet to one that already was.
        for _ in range(2):
            spaces = self.spaces()
            for space in spaces:
                stored = self.storage.info(paths.segment_path(media, space, settings_digest))
                if stored is not None:
                    found.append(self._segment_file(stored, space, settings_digest))
            if found or len(spaces) < 2:
                break
        return sorted(found, key=lambda file: file.modified or 0.0, reverse=True)

    def file_at(self, path: str) -> SegmentFile | None:
        """Look up a file of segments.

        Args:
            path: The file, relative to the root.

        Returns:
            The file; None if there is none, or if files of segments do not lie there.
        """
        values = paths.partition_values(path)
        stored = None if values is None else self.storage.info(path)
        return None if values is None or stored is None else self._segment_file(stored, *values)

    def read_media(self, media: str, settings_digest: str) -> MediaSegments | None:
        """Read one media file's segments.

        Args:
            media: The partition key.
            settings_digest: The digest of the embedding settings.

        Returns:
            The segments, sorted by option, scope and start; None if the dataset has none.

        Raises:
            DatasetError: The file is damaged.
        """
        # A file that is found and then gone was replaced by one in another space: that one is found the second time.
        for _ in range(2):
            files = self.find(media, settings_digest)
            for file in files:
                decoded = self.read_path(file.path)
                if decoded is not None:
                    return MediaSegments.from_arrow(*decoded)
            if not files:
                break
        return None

    def delete(self, media: str, settings_digest: str | None = None) -> int:
        """Delete one media file's segments.

        Args:
            media: The partition key.
            settings_digest: Delete those of these settings only; None deletes all.

        Returns:
            The number of files that were deleted.
        """
        return sum(
            self.storage.remove(paths.segment_path(media, space, digest))
            for space in self.spaces()
            for digest in ([settings_digest] if settings_digest else self.settings_digests(space))
        )

    def copy_media(self, source: str, target: str, target_uri: str, settings_digest: str) -> WrittenFile | None:
        """Copy one media file's segments to another media file of the same content, such as a renamed one.

        Args:
            source: The partition key that has segments.
            target: The partition key that gets them.
            target_uri: Where the other media file is.
            settings_digest: The digest of the embedding settings.

        Returns:
            The file that was written; None if the source has no segments. The source keeps its own.
        """
        segments = self.read_media(source, settings_digest)
        if segments is None:
            return None
        return self.write(dataclasses.replace(segments, media=target, media_uri=target_uri))

    def media(self, settings_digest: str) -> Iterator[str]:
        """List the partition keys that have segments under one set of settings, each once, in no useful order."""
        seen: set[str] = set()
        for file in self.segment_files(settings_digest=settings_digest):
            if file.name not in seen:
                seen.add(file.name)
                key = self.media_of(file)
                if key is not None:
                    yield key

    def spaces(self) -> list[str]:
        """List the vector spaces that have segments, by name."""
        return [
            name.removeprefix("space=") for name in self.storage.folders(paths.SEGMENTS) if name.startswith("space=")
        ]

    def settings_digests(self, space: str) -> list[str]:
        """List the settings that have segments in a vector space, by digest."""
        return [
            name.removeprefix("settings=")
            for name in self.storage.folders(f"{paths.SEGMENTS}/space={space}")
            if name.startswith("settings=")
        ]

    def segment_files(self, *, space: str | None = None, settings_digest: str | None = None) -> Iterator[SegmentFile]:
        """List the files of segments, by space, settings and name, with one listing for each folder.

        Args:
            space: Only those of this vector space.
            settings_digest: Only those of these settings.
        """
        for each in self.spaces() if space is None else [space]:
            for digest in self.settings_digests(each) if settings_digest is None else [settings_digest]:
                for stored in self.storage.files(paths.segment_folder(each, digest)):
                    if paths.partition_values(stored.path) is not None:
                        yield self._segment_file(stored, each, digest)

    def current_files(
        self,
        *,
        space: str | None = None,
        settings_digest: str | None = None,
        media: Collection[str] | None = None,
        exclude_media: Collection[str] = (),
    ) -> list[SegmentFile]:
        """List the files that hold the results as they are now, one per media file and settings, by name.

        Args:
            space: Only those of this vector space.
            settings_digest: Only those of these settings.
            media: Only those of these partition keys; few are looked up one by one, without a listing of all files.
            exclude_media: None of these partition keys.
        """
        excluded = {paths.file_name(key) for key in exclude_media}
        if media is None:
            listed: Iterable[SegmentFile] = self.segment_files(space=space, settings_digest=settings_digest)
        else:
            listed = self._files_of(media, space, settings_digest)
        current: dict[tuple[str, str], SegmentFile] = {}
        for file in listed:
            if file.name in excluded:
                continue
            key = (file.name, file.settings_digest)
            # Two spaces hold the same media file only after a crash; the newer one is the result.
            if key not in current or (file.modified or 0.0) >= (current[key].modified or 0.0):
                current[key] = file
        return sorted(current.values(), key=lambda file: (file.name, file.settings_digest))

    def media_of(self, file: SegmentFile) -> str | None:
        """Return the partition key of a file: from its name, or from its metadata where the name was cut.

        Returns:
            The partition key; None if the file is gone.

        Raises:
            DatasetError: The name was cut, and the file is damaged.
        """
        key = paths.media_of(file.name)
        if key is None and (footer := self.read_footer(file)) is not None:
            key = FileMetadata.decode(footer.metadata, file.uri).media
        return key

    def read_file(
        self, file: SegmentFile, *, columns: list[str] | None = None, filters: pc.Expression | None = None
    ) -> pa.Table | None:
        """Read rows of one file of segments.

        Args:
            file: The file.
            columns: Columns to read; None is all.
            filters: Rows to keep; None is all.

        Returns:
            The rows in the present schema; None if the file is gone.

        Raises:
            DatasetError: The file is damaged.
        """
        decoded = self.read_path(file.path, columns=columns, filters=filters)
        return None if decoded is None else decoded[0]

    def read_path(
        self, path: str, *, columns: list[str] | None = None, filters: pc.Expression | None = None
    ) -> tuple[pa.Table, FileMetadata] | None:
        """Read rows of the file of segments at a path, and its metadata; see `read_file`."""
        source = self.storage.open(path)
        if source is None:
            return None
        with source:
            return codec.decode(source, self.storage.uri(path), columns=columns, filters=filters)

    def read_footer(self, file: SegmentFile) -> pq.FileMetaData | None:
        """Read the footer of a file of segments, and nothing else of it.

        Args:
            file: The file as it was listed.

        Returns:
            The footer: rows, row groups and metadata; None if the file is gone.

        Raises:
            DatasetError: The file cannot be read, or is damaged.
        """
        size, length = file.size_bytes, _FOOTER_BYTES
        while True:
            try:
                end = self.storage.read_end(file.path, size, length)
                if end is None:
                    return None
                needed = codec.footer_bytes(end)
                if needed is None or not length < needed <= size:
                    return codec.parse_footer(end, file.uri)
                length = needed
            except DatasetError:
                # An object that was replaced since it was listed has another size, so this was not its end.
                stored = self.storage.info(file.path)
                if stored is None:
                    return None
                if stored.size_bytes == size:
                    raise
                size = stored.size_bytes

    def _files_of(
        self, media: Collection[str], space: str | None, settings_digest: str | None
    ) -> Iterator[SegmentFile]:
        if settings_digest is not None:
            digests = {settings_digest}
        else:
            digests = {digest for each in self.spaces() for digest in self.settings_digests(each)}
        if len(media) * len(digests) > _LOOKUPS_AT_MOST:
            names = {paths.file_name(key) for key in media}
            listed = self.segment_files(space=space, settings_digest=settings_digest)
            yield from (file for file in listed if file.name in names)
            return
        lookups = [(key, digest) for key in sorted(media) for digest in sorted(digests)]
        for files in prefetch(lambda lookup: self.find(*lookup), lookups):
            yield from (file for file in files if space in (None, file.space))

    def _segment_file(self, stored: StoredFile, space: str, settings_digest: str) -> SegmentFile:
        return SegmentFile(
            stored.path,
            self.storage.uri(stored.path),
            space,
            settings_digest,
            stored.size_bytes,
            stored.version,
            stored.modified,
        )
