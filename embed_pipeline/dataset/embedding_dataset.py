"""`EmbeddingDataset`: everything that a dataset can do, in one value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from embed_pipeline.dataset import outcomes as media_table
from embed_pipeline.dataset import results as stored
from embed_pipeline.dataset.storage import DEFAULT_CONCURRENCY
from embed_pipeline.dataset.store import SegmentStore
from embed_pipeline.dataset.table import compaction, retention
from embed_pipeline.dataset.table import snapshot as snapshots
from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from datetime import datetime

    import pyarrow as pa

    from embed_pipeline.dataset.outcomes import MediaOutcome
    from embed_pipeline.dataset.results import DamagedFile, StoredResult
    from embed_pipeline.dataset.store import WrittenFile
    from embed_pipeline.dataset.table.snapshot import Snapshot

_OWNER_PATH = "pipeline.json"


@dataclass(frozen=True)
class EmbeddingDataset(SegmentStore):
    """The dataset below one root: files of segments, the compacted table, and the table of outcomes.

    Any number of processes may write different media files and read at the same time. Two that write the same media
    file leave the result of the one that finished last.

    Args:
        root: A local path, or a URL that fsspec understands, such as `s3://bucket/prefix`.
        storage_options: Passed to the file system; credentials are better left to the store's own usual means.
        encoding: Layout of rows in the files.

    Raises:
        DatasetError: The root has a password in it.
    """

    def claim(self, pipeline: str) -> None:
        """Take the root for one pipeline before anything is written: two would replace each other's files and table.

        Args:
            pipeline: The pipeline's name; empty for the one without.

        Raises:
            DatasetError: The root is another pipeline's, or its owner is not readable.
        """
        owner = self._owner()
        if owner is None:
            self.storage.put(_OWNER_PATH, json.dumps({"pipeline": pipeline}).encode())
            # Of two that come at once, the one that wrote last has it, and the other is refused here.
            owner = self._owner()
        if owner is not None and owner != pipeline:
            raise DatasetError(
                f"{self.storage.uri('')} holds the dataset of {_called(owner)}, and {_called(pipeline)} would replace "
                "its files and its table. Give each pipeline an output of its own. If the pipeline was only renamed, "
                f"delete {self.storage.uri(_OWNER_PATH)}."
            )

    def results(self, *, concurrency: int = DEFAULT_CONCURRENCY) -> Iterator[StoredResult | DamagedFile]:
        """List the results that the dataset holds, one per file of segments, by space, settings and name.

        A file's footer is read, and in files of early releases a few small columns; vectors never are. After a crash a
        media file may have results in two vector spaces under the same settings: the newer one counts.

        Args:
            concurrency: Files that are read at once.

        Yields:
            The result of each file, or the damage where a file holds none. A file that vanishes meanwhile is left out.

        Raises:
            DatasetError: The store cannot be listed or read, which is no damage of a file.
        """
        return stored.stored_results(self, concurrency=concurrency)

    def check(
        self, name: str, settings_digest: str | None = None, *, rows: int | None = None, deep: bool = False
    ) -> str | None:
        """Check that a file of segments is there and whole.

        The footer is read, and compared with the file's place, size and row groups. A deep check decodes every page,
        verifies its checksum, and checks that columns, metadata and segment ids agree.

        Args:
            name: The partition key with `settings_digest`, or the file's path relative to the root without it.
            settings_digest: The digest of the embedding settings.
            rows: The number of segments that the file must hold; None accepts any.
            deep: True reads and decodes the whole file.

        Returns:
            None if all is well, else one sentence on the damage and the remedy.

        Raises:
            DatasetError: The store cannot be read, which is no damage of the file.
        """
        return stored.check_file(self, name, settings_digest, rows=rows, deep=deep)

    def compact(
        self,
        *,
        keys: Collection[str] | Mapping[str, str] | None = None,
        settings_digest: str | None = None,
        retain: int = 3,
        target_bytes: int | None = None,
    ) -> Snapshot:
        """Build the next snapshot of `embeddings_table`; see `embed_pipeline.dataset.table.compaction.compact`."""
        return compaction.compact(
            self,
            keys=keys,
            settings_digest=settings_digest,
            retain=retain,
            target_bytes=target_bytes or compaction.TARGET_BYTES,
        )

    def snapshot(self) -> Snapshot | None:
        """Return the current snapshot of `embeddings_table`; None before the first compaction."""
        return snapshots.read_current(self.storage)

    def snapshots(self) -> list[Snapshot]:
        """Return the snapshots that are kept, oldest first."""
        return snapshots.read_kept(self.storage)

    def snapshot_uris(self) -> list[str]:
        """Return the files of the current snapshot, to hand to other tools; none before the first compaction."""
        current = self.snapshot()
        return [] if current is None else [self.storage.uri(file.path) for file in current.files]

    def rollback(self, snapshot_id: str) -> Snapshot:
        """Make an earlier snapshot the current one again; see `embed_pipeline.dataset.table.compaction.rollback`."""
        return compaction.rollback(self, snapshot_id)

    def write_outcomes(self, outcomes: Iterable[MediaOutcome]) -> WrittenFile:
        """Replace the `media` table; see `embed_pipeline.dataset.outcomes.write_outcomes`."""
        return media_table.write_outcomes(self, outcomes)

    def read_outcomes(self) -> pa.Table:
        """Read the `media` table; empty before it was first written."""
        return media_table.read_outcomes(self)

    def sweep(self, *, older_than: timedelta = timedelta(hours=24), now: datetime | None = None) -> list[str]:
        """Remove files that crashes left behind; see `embed_pipeline.dataset.table.retention.sweep`."""
        return retention.sweep(self, older_than=older_than, now=now)

    def _owner(self) -> str | None:
        if (data := self.storage.read(_OWNER_PATH)) is None:
            return None
        try:
            owner = json.loads(data)["pipeline"]
        except (ValueError, KeyError, TypeError):
            owner = None
        if not isinstance(owner, str):
            # Another program's perhaps, with a meaning of its own.
            raise DatasetError(
                f"{self.storage.uri(_OWNER_PATH)} does not name the pipeline that owns this dataset, and is not "
                "replaced, since it may belong to another program. Give the dataset an output of its own, or delete "
                "that file."
            )
        return owner


def _called(pipeline: str) -> str:
    return f"the pipeline {pipeline!r}" if pipeline else "the pipeline without a name"
