"""Columns and file metadata of the dataset, and how files of older versions are brought up to them.

The schema is versioned by one integer. A later version only ever adds nullable columns, so that a reader of any version
can read files of any other: columns that a file lacks are null, columns that a reader does not know are left out. A
nullable column of which a file would hold no value is not written. Metadata keys may be added without a new version; a
reader does without those that a file lacks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

SCHEMA_VERSION = 1
METRIC = "cosine"
METADATA_PREFIX = "embed_pipeline."

KEY_COLUMNS = ("media", "segment_id")
"""Columns that together identify a row, to upsert by; `segment_id` alone repeats in copies of a media file."""

Layout = Literal["fixed", "list"]
"""Type of a vector: `fixed` is a fixed-size list, `list` a plain list for readers that cannot take the former."""

Kind = Literal["string", "int32", "float64", "timestamp", "vector"]


class DamagedFileError(DatasetError):
    """A file of the dataset that was read and holds no readable rows: reading it again gives the same."""


@dataclass(frozen=True)
class Column:
    """One column of the schema.

    Args:
        name: The column's name.
        kind: Its type; `vector` is a list of `dimension` float32, `timestamp` is microseconds in UTC.
        nullable: True if a row may have no value.
        description: Meaning, unit and null rule, for people.
    """

    name: str
    kind: Kind
    nullable: bool
    description: str


COLUMNS: tuple[Column, ...] = (
    Column(
        "segment_id",
        "string",
        False,
        "Stable id: a hash of content, settings, option, scope and offsets. A copy or a renamed file has the same ids, "
        "so rows are upserted by `media` and `segment_id` together.",
    ),
    Column("media", "string", False, "The media file's partition key: its path within the media library."),
    Column("media_uri", "string", False, "Where the media file is; never holds credentials."),
    Column("fingerprint", "string", False, "The identity of the media file's content."),
    Column("media_type", "string", False, "`audio` or `video`."),
    Column(
        "embedding_option",
        "string",
        False,
        "The part that was embedded: `visual`, `audio`, `transcription` or `fused`.",
    ),
    Column("embedding_scope", "string", False, "`clip` for a part of the media file, `asset` for all of it."),
    Column("segment_index", "int32", False, "Position by start offset within the option and scope, from 0."),
    Column("start_sec", "float64", False, "Start offset in seconds from the start of the media file."),
    Column("end_sec", "float64", False, "End offset in seconds from the start of the media file."),
    Column("embedding", "vector", False, "The vector, float32. Compare by cosine, and only within one vector space."),
    Column(
        "embedding_uncertainty",
        "vector",
        True,
        "The uncertainty of each component, as long as the vector; null unless the settings asked for it.",
    ),
    Column("model_name", "string", False, "The platform's model or the emulator's engine that computed the vector."),
    Column(
        "settings_digest", "string", False, "Digest of the embedding settings; the file's metadata spells them out."
    ),
    Column("task_id", "string", False, "The embedding task that made the vector."),
    Column("created_at", "timestamp", False, "When that task was created, in UTC."),
)


def column_descriptions() -> dict[str, str]:
    """Return the meaning of each column, by name and in the order of the columns."""
    return {column.name: column.description for column in COLUMNS}


def segment_schema(dimension: int, layout: Layout = "fixed") -> pa.Schema:
    """Build the Arrow schema of a row, with the descriptions as field metadata.

    Args:
        dimension: The number of components of a vector.
        layout: The type of vectors.

    Returns:
        The schema without file metadata.
    """
    import pyarrow as pa

    vector = pa.list_(pa.float32(), dimension) if layout == "fixed" else pa.list_(pa.float32())
    types: dict[Kind, pa.DataType] = {
        "string": pa.string(),
        "int32": pa.int32(),
        "float64": pa.float64(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "vector": vector,
    }
    return pa.schema(
        pa.field(column.name, types[column.kind], column.nullable, {"description": column.description})
        for column in COLUMNS
    )


@dataclass(frozen=True)
class FileMetadata:
    """Key-value metadata of a Parquet file of the dataset.

    The fields from `settings_digest` to `duration_sec` describe the one media file whose segments the file holds. They
    are empty in compacted files, and those from `media_uri` to `created_at` also in files of early releases.

    Args:
        model: The platform's model or the emulator's engine that computed the vectors.
        dimension: The number of components of a vector.
        space: The vector space.
        settings: The canonical embedding settings; empty in compacted files, which may hold several.
        settings_digest: Their digest.
        media: The partition key of the media file.
        media_uri: Its place, without credentials.
        fingerprint: The identity of its content.
        media_type: `audio` or `video`.
        task_id: The embedding task that made the vectors.
        created_at: When that task was created.
        duration_sec: The media file's duration in seconds; None where it is not known.
        schema_version: The version of the schema that the file was written by.
    """

    model: str
    dimension: int
    space: str
    settings: Mapping[str, Any]
    settings_digest: str = ""
    media: str = ""
    media_uri: str = ""
    fingerprint: str = ""
    media_type: str = ""
    task_id: str = ""
    created_at: datetime | None = None
    duration_sec: float | None = None
    schema_version: int = SCHEMA_VERSION

    def encode(self) -> dict[str, str]:
        """Return the metadata as a Parquet file holds it, every key beginning with `embed_pipeline.`."""
        values = {
            "schema_version": str(self.schema_version),
            "model": self.model,
            "dimension": str(self.dimension),
            "metric": METRIC,
            "space": self.space,
            "settings": json.dumps(self.settings, sort_keys=True) if self.settings else "",
            "settings_digest": self.settings_digest,
            "media": self.media,
            "media_uri": self.media_uri,
            "fingerprint": self.fingerprint,
            "media_type": self.media_type,
            "task_id": self.task_id,
            "created_at": "" if self.created_at is None else self.created_at.astimezone(UTC).isoformat(),
            "duration_sec": "" if self.duration_sec is None else repr(float(self.duration_sec)),
        }
        return {METADATA_PREFIX + name: value for name, value in values.items() if value}

    @classmethod
    def decode(cls, metadata: Mapping[bytes, bytes] | None, path: str) -> FileMetadata:
        """Read the metadata of a Parquet file.

        Args:
            metadata: The file's key-value metadata.
            path: The file, for the error.

        Raises:
            DamagedFileError: The file was not written by this package.
        """
        try:
            values = {key.decode(): value.decode() for key, value in (metadata or {}).items() if key != b"ARROW:schema"}

            def optional(name: str) -> str:
                return values.get(METADATA_PREFIX + name, "")

            return cls(
                schema_version=int(values[METADATA_PREFIX + "schema_version"]),
                model=values[METADATA_PREFIX + "model"],
                dimension=int(values[METADATA_PREFIX + "dimension"]),
                space=values[METADATA_PREFIX + "space"],
                settings=json.loads(optional("settings") or "{}"),
                settings_digest=optional("settings_digest"),
                media=optional("media"),
                media_uri=optional("media_uri"),
                fingerprint=optional("fingerprint"),
                media_type=optional("media_type"),
                task_id=optional("task_id"),
                created_at=datetime.fromisoformat(text) if (text := optional("created_at")) else None,
                duration_sec=float(text) if (text := optional("duration_sec")) else None,
            )
        except (KeyError, ValueError):
            raise DamagedFileError(
                f"{path} is no file of this dataset: its metadata does not name the vectors it holds. "
                "Move it out of the dataset's folder."
            ) from None


def conform(table: pa.Table, dimension: int) -> pa.Table:
    """Bring a table that was read, of any version and layout, to the present schema with fixed-size vectors.

    Args:
        table: Rows with all or some of the columns.
        dimension: The number of components of a vector.

    Returns:
        The columns that `table` has, plus every nullable column that it lacks, in the order of the schema.
    """
    import pyarrow as pa

    schema = segment_schema(dimension)
    present = set(table.column_names)
    fields = [field for field in schema if field.name in present or field.nullable]
    columns = [
        _as_type(table.column(field.name), field.type)
        if field.name in present
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in fields
    ]
    return pa.table(columns, schema=pa.schema(fields))


def _as_type(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == wanted else column.cast(wanted)
