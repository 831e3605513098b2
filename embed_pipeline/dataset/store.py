"""The dataset: one immutable Parquet file per media file and settings, replaced atomically."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from embed_pipeline.dataset import codec, ownership, paths
from embed_pipeline.dataset.encoding import ParquetEncoding
from embed_pipeline.dataset.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from datetime import datetime

    import pyarrow as pa
    import pyarrow.compute as pc

    from embed_pipeline.dataset.outcomes import MediaOutcome
    from embed_pipeline.dataset.segments import MediaSegments
    from embed_pipeline.dataset.snapshot import Snapshot
    from embed_pipeline.dataset.storage import StoredFile


@dataclass(frozen=True)
class WrittenFile:
    """What writing one media file's segments left behind.

    Args:
        uri: The Parquet file: a plain path on a local disk, else a URL.
        path: The same, relative to the root.
        rows: How many segments it holds.
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
    """A file of segments that is in the dataset.

    Args:
        path: The Parquet file, relative to the root.
        uri: The same for people and other tools.
        space: The vector space of its vectors.
        settings_digest: The settings they were made under.
        size_bytes: The file's size.
        version: Changes whenever the file is replaced.
        modified: When it was written, in seconds since the epoch, where the store tells.
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
class EmbeddingDataset:
    """The segments of a media library, kept as Parquet below one root.

    Any number of processes may write different media files and read at the same time. Two that write the same media
    file leave the result of the one that finished last.

    Args:
        root: A local path, or a URL that fsspec understands, such as `s3://bucket/prefix`.
        storage_options: Passed to the file system; credentials are better left to the store's own usual means.
        encoding: How rows are laid out in the files.
    """

    root: str
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    encoding: ParquetEncoding = field(default_factory=ParquetEncoding)

    @cached_property
    def storage(self) -> Storage:
        """The files below the root."""
        return Storage(self.root, dict(self.storage_options or {}))

    def claim(self, pipeline: str) -> None:
        """Makes sure that the dataset is this pipeline's own, before anything is written; the first to come has it.

        Args:
            pipeline: The pipeline's name; empty for the one without.

        Raises:
            DatasetError: It is another pipeline's.
        """
        ownership.claim(self.storage, pipeline)

    def write(self, segments: MediaSegments) -> WrittenFile:
        """Writes one media file's segments, in place of those that are there for it under the same settings.

        The new file is in place before one of another vector space is removed, so a crash never leaves nothing.

        Args:
            segments: The segments.

        Raises:
            DatasetError: The file could not be written; what was there before still is.
        """
        path = paths.segment_path(segments.media, segments.space, segments.settings_digest)
        data = codec.encode(codec.to_table(segments, self.encoding.layout), self.encoding)
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
        """Finds the files that hold one media file under one set of settings, newest first.

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

    def read_media(self, media: str, settings_digest: str) -> MediaSegments | None:
        """Reads one media file's segments.

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
                data = self.storage.read(file.path)
                if data is not None:
                    return codec.from_table(*codec.decode(data, file.uri))
            if not files:
                break
        return None

    def delete(self, media: str, settings_digest: str | None = None) -> int:
        """Deletes one media file's segments.

        Args:
            media: The partition key.
            settings_digest: Delete those of these settings only; None deletes all.

        Returns:
            How many files were deleted.
        """
        return sum(
            self.storage.remove(paths.segment_path(media, space, digest))
            for space in self.spaces()
            for digest in ([settings_digest] if settings_digest else self.settings_digests(space))
        )

    def copy_media(self, source: str, target: str, target_uri: str, settings_digest: str) -> WrittenFile | None:
        """Gives one media file's segments to another media file of the same content, such as a renamed one.

        Args:
            source: The partition key that has segments.
            target: The partition key that gets them.
            target_uri: Where the other media file is.
            settings_digest: The digest of the embedding settings.

        Returns:
            What was written; None if the source has no segments. The source keeps its own.
        """
        segments = self.read_media(source, settings_digest)
        if segments is None:
            return None
        return self.write(dataclasses.replace(segments, media=target, media_uri=target_uri))

    def media(self, settings_digest: str) -> Iterator[str]:
        """Lists the partition keys that have segments under one set of settings, each once, in no useful order."""
        seen: set[str] = set()
        for file in self.segment_files(settings_digest=settings_digest):
            if file.name not in seen:
                seen.add(file.name)
                key = self.media_of(file)
                if key is not None:
                    yield key

    def spaces(self) -> list[str]:
        """Lists the vector spaces that have segments, by name."""
        return [
            name.removeprefix("space=") for name in self.storage.folders(paths.SEGMENTS) if name.startswith("space=")
        ]

    def settings_digests(self, space: str) -> list[str]:
        """Lists the settings that have segments in a vector space, by digest."""
        return [
            name.removeprefix("settings=")
            for name in self.storage.folders(f"{paths.SEGMENTS}/space={space}")
            if name.startswith("settings=")
        ]

    def segment_files(self, *, space: str | None = None, settings_digest: str | None = None) -> Iterator[SegmentFile]:
        """Lists the files of segments, by space, settings and name.

        Args:
            space: Only those of this vector space.
            settings_digest: Only those of these settings.
        """
        for each in self.spaces() if space is None else [space]:
            for digest in self.settings_digests(each) if settings_digest is None else [settings_digest]:
                for stored in self.storage.files(paths.segment_folder(each, digest)):
                    if paths.partition_values(stored.path) is not None:
                        yield self._segment_file(stored, each, digest)

    def media_of(self, file: SegmentFile) -> str | None:
        """Tells whose segments a file holds: from its name, or from its metadata where the name was cut.

        Returns:
            The partition key; None if the file is gone.
        """
        key = paths.media_of(file.name)
        if key is None:
            data = self.storage.read(file.path)
            if data is not None:
                key = codec.facts(data, file.uri).media
        return key

    def read_file(
        self, file: SegmentFile, *, columns: list[str] | None = None, filters: pc.Expression | None = None
    ) -> pa.Table | None:
        """Reads rows of one file of segments.

        Args:
            file: The file.
            columns: Columns to read; None is all.
            filters: Rows to keep; None is all.

        Returns:
            The rows in the present schema; None if the file is gone.
        """
        data = self.storage.read(file.path)
        return None if data is None else codec.decode(data, file.uri, columns=columns, filters=filters)[0]

    def compact(
        self,
        *,
        keys: Collection[str] | Mapping[str, str] | None = None,
        settings_digest: str | None = None,
        retain: int = 3,
        target_bytes: int | None = None,
    ) -> Snapshot:
        """Builds the next snapshot of `embeddings_table`; see `embed_pipeline.dataset.compaction.compact`."""
        from embed_pipeline.dataset import compaction

        return compaction.compact(
            self,
            keys=keys,
            settings_digest=settings_digest,
            retain=retain,
            target_bytes=target_bytes or compaction.TARGET_BYTES,
        )

    def snapshot(self) -> Snapshot | None:
        """Returns the current snapshot of `embeddings_table`; None before the first compaction."""
        from embed_pipeline.dataset.snapshot import read_current

        return read_current(self.storage)

    def snapshots(self) -> list[Snapshot]:
        """Returns the snapshots that are kept, oldest first."""
        from embed_pipeline.dataset.snapshot import read_kept

        return read_kept(self.storage)

    def snapshot_uris(self) -> list[str]:
        """Returns the files of the current snapshot, to hand to other tools; none before the first compaction."""
        current = self.snapshot()
        return [] if current is None else [self.storage.uri(file.path) for file in current.files]

    def rollback(self, snapshot_id: str) -> Snapshot:
        """Makes an earlier snapshot the current one again; see `embed_pipeline.dataset.compaction.rollback`."""
        from embed_pipeline.dataset.compaction import rollback

        return rollback(self, snapshot_id)

    def write_outcomes(self, outcomes: Iterable[MediaOutcome]) -> WrittenFile:
        """Replaces the `media` table; see `embed_pipeline.dataset.outcomes.write_outcomes`."""
        from embed_pipeline.dataset.outcomes import write_outcomes

        return write_outcomes(self, outcomes)

    def read_outcomes(self) -> pa.Table:
        """Reads the `media` table; empty before it was first written."""
        from embed_pipeline.dataset.outcomes import read_outcomes

        return read_outcomes(self)

    def sweep(self, *, older_than: timedelta = timedelta(hours=24), now: datetime | None = None) -> list[str]:
        """Removes what crashes left behind; see `embed_pipeline.dataset.sweeping.sweep`."""
        from embed_pipeline.dataset.sweeping import sweep

        return sweep(self, older_than=older_than, now=now)

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
