"""Snapshots of `embeddings_table`: the large files that make up the table at one moment, and their record.

Below the root::

    embeddings_table/manifest.json                      the current snapshot; swapped last
    embeddings_table/snapshots/<id>.json                the same for each snapshot that is kept, to roll back to
    embeddings_table/snapshots/<id>.sources.parquet     the files of segments that went into it
    embeddings_table/data/space=<space>/<id>-00000.parquet
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embed_pipeline.dataset.schema import METRIC, SCHEMA_VERSION
from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embed_pipeline.dataset.storage import Storage

FOLDER = "embeddings_table"
MANIFEST = f"{FOLDER}/manifest.json"
HISTORY = f"{FOLDER}/snapshots"
DATA = f"{FOLDER}/data"
MANIFEST_VERSION = 1


@dataclass(frozen=True)
class SnapshotFile:
    """One large file of a snapshot; immutable.

    Args:
        path: The Parquet file, relative to the dataset's root.
        space: The vector space of all its vectors.
        rows: The number of segments that it holds.
        media: The number of results of media files that it holds.
        size_bytes: Its size.
        sha256: The hash of its bytes.
        first_media: The first partition key within; rows are sorted by it.
        last_media: The last partition key within.
        schema_version: The version of the schema that it was written by.
    """

    path: str
    space: str
    rows: int
    media: int
    size_bytes: int
    sha256: str
    first_media: str
    last_media: str
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Snapshot:
    """The table as it was when it was built.

    Args:
        snapshot_id: Names the snapshot; ids sort by time.
        created_at: When it was built, ISO 8601 in UTC.
        files: The files that make it up.
    """

    snapshot_id: str
    created_at: str
    files: tuple[SnapshotFile, ...]

    @property
    def rows(self) -> int:
        """The number of segments in the table."""
        return sum(file.rows for file in self.files)

    @property
    def media(self) -> int:
        """The number of results of media files in the table."""
        return sum(file.media for file in self.files)

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def spaces(self) -> list[str]:
        """The vector spaces within, by name."""
        return sorted({file.space for file in self.files})

    @property
    def written_files(self) -> tuple[SnapshotFile, ...]:
        """The files that were written for this snapshot; the others were taken over from earlier ones."""
        return tuple(file for file in self.files if f"/{self.snapshot_id}-" in file.path)

    @property
    def history_path(self) -> str:
        """The snapshot's own manifest, relative to the root."""
        return f"{HISTORY}/{self.snapshot_id}.json"

    @property
    def sources_path(self) -> str:
        """The list of the files of segments that went in, relative to the root."""
        return f"{HISTORY}/{self.snapshot_id}.sources.parquet"

    def to_json(self) -> bytes:
        """Return the manifest."""
        spaces = {
            space: {
                "rows": sum(file.rows for file in self.files if file.space == space),
                "media": sum(file.media for file in self.files if file.space == space),
            }
            for space in self.spaces
        }
        manifest = {
            "manifest_version": MANIFEST_VERSION,
            "snapshot_id": self.snapshot_id,
            "created_at": self.created_at,
            "schema_version": SCHEMA_VERSION,
            "metric": METRIC,
            "rows": self.rows,
            "media": self.media,
            "size_bytes": self.size_bytes,
            "spaces": spaces,
            "files": [dataclasses.asdict(file) for file in self.files],
        }
        return json.dumps(manifest, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, path: str) -> Snapshot:
        """Read a manifest.

        Args:
            data: The manifest.
            path: Where it is from, for the error.

        Raises:
            DatasetError: It is damaged, or of a later kind than this version of the package understands.
        """
        try:
            manifest: dict[str, Any] = json.loads(data)
            if manifest["manifest_version"] > MANIFEST_VERSION:
                raise DatasetError(f"{path} was written by a later version of embed-pipeline; upgrade to read it.")
            known = {field.name for field in dataclasses.fields(SnapshotFile)}
            files = tuple(
                SnapshotFile(**{name: value for name, value in file.items() if name in known})
                for file in manifest["files"]
            )
            return cls(manifest["snapshot_id"], manifest["created_at"], files)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{path} is no readable manifest ({type(error).__name__}: {error}). "
                f"Roll back to one of the snapshots in {HISTORY}/, or delete it and build the table again."
            ) from None


@dataclass(frozen=True)
class Source:
    """A file of segments that goes into a snapshot.

    Args:
        path: The Parquet file, relative to the root.
        version: Changes whenever the file is replaced.
        media: The partition key.
        settings_digest: The settings.
        space: The vector space.
        size_bytes: Its size.
        file: The snapshot's file that holds its rows; empty as long as there is none.
    """

    path: str
    version: str
    media: str
    settings_digest: str
    space: str
    size_bytes: int
    file: str = ""


def read_current(storage: Storage) -> Snapshot | None:
    """Read the current snapshot; None before the first."""
    data = storage.read(MANIFEST)
    return None if data is None else Snapshot.from_json(data, storage.uri(MANIFEST))


def read_kept(storage: Storage) -> list[Snapshot]:
    """Read all snapshots that are kept, oldest first."""
    kept = []
    for file in storage.files(HISTORY):
        name = file.path.rpartition("/")[2]
        if name.endswith(".json") and not name.startswith("."):
            data = storage.read(file.path)
            if data is not None:
                kept.append(Snapshot.from_json(data, storage.uri(file.path)))
    return sorted(kept, key=lambda snapshot: snapshot.snapshot_id)


def read_sources(storage: Storage, snapshot: Snapshot) -> list[Source]:
    """Read the list of files that went into a snapshot; empty if it is lost, which costs a full rebuild."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = storage.read(snapshot.sources_path)
    if data is None:
        return []
    return [Source(**row) for row in pq.read_table(pa.BufferReader(data)).to_pylist()]


def publish(storage: Storage, snapshot: Snapshot, sources: Iterable[Source]) -> None:
    """Record a snapshot whose files are all in place, and make it the current one as the very last step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [dataclasses.asdict(source) for source in sources]
    schema = pa.schema(
        (field.name, pa.int64() if field.name == "size_bytes" else pa.string()) for field in dataclasses.fields(Source)
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    storage.put(snapshot.sources_path, memoryview(sink.getvalue()))
    manifest = snapshot.to_json()
    storage.put(snapshot.history_path, manifest)
    storage.put(MANIFEST, manifest)
