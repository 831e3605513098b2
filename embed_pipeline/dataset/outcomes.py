"""The `media` table: one row per media file with its state, error, attempts and minutes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args

from embed_pipeline.dataset.store import WrittenFile
from embed_pipeline.errors import DatasetError
from embed_pipeline.redaction import redact, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    import pyarrow as pa

    from embed_pipeline.dataset.store import SegmentStore

PATH = "media.parquet"
_BATCH_ROWS = 20_000

State = Literal["unsubmitted", "processing", "embedded", "failed", "expired", "gone"]
"""State of a media file; each is in exactly one."""


@dataclass(frozen=True, kw_only=True)
class MediaOutcome:
    """Outcome of one media file: its state and the history behind it.

    Args:
        media: The partition key.
        media_uri: Where the media file is, without credentials.
        fingerprint: The identity of its content; None where it is not known.
        media_type: `audio` or `video`; None where it is not known.
        duration_sec: Its duration in seconds; None where it is not known.
        state: Its state.
        error: The reason of the failure, in the platform's own words; None unless `failed` or `expired`.
        attempts: The number of embedding tasks created for this content and these settings.
        task_id: The last embedding task; None before the first.
        segments: The number of segments that the dataset holds for it; None unless `embedded`.
        space: The vector space of those segments; None likewise.
        settings_digest: The digest of the embedding settings.
        submitted_at: When the last embedding task was created.
        finished_at: When the platform had finished it.
        embedded_at: When its segments were written.
        minutes_billed: Minutes that the platform bills for all attempts; None where it is not known.
    """

    media: str
    media_uri: str
    state: State
    fingerprint: str | None = None
    media_type: str | None = None
    duration_sec: float | None = None
    error: str | None = None
    attempts: int = 0
    task_id: str | None = None
    segments: int | None = None
    space: str | None = None
    settings_digest: str | None = None
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    embedded_at: datetime | None = None
    minutes_billed: float | None = None

    def __post_init__(self) -> None:
        if self.state not in get_args(State):
            raise DatasetError(
                f"The state of media file {self.media!r} is {self.state!r}; use one of {', '.join(get_args(State))}."
            )


OUTCOME_DESCRIPTIONS = {
    "media": "The media file's partition key: its path within the media library.",
    "media_uri": "Where the media file is; never holds credentials.",
    "state": "Its state: unsubmitted, processing, embedded, failed, expired or gone.",
    "fingerprint": "The identity of its content; null where it is not known.",
    "media_type": "`audio` or `video`; null where it is not known.",
    "duration_sec": "Its duration in seconds; null where it is not known.",
    "error": "The reason of the failure, in the platform's own words; null unless it failed or expired.",
    "attempts": "The number of embedding tasks created for this content and these settings.",
    "task_id": "The last embedding task; null before the first.",
    "segments": "The number of segments that the dataset holds for it; null unless embedded.",
    "space": "The vector space of those segments; null unless embedded.",
    "settings_digest": "Digest of the embedding settings.",
    "submitted_at": "When the last embedding task was created, in UTC.",
    "finished_at": "When the platform had finished it, in UTC.",
    "embedded_at": "When its segments were written, in UTC.",
    "minutes_billed": "Minutes that the platform bills for all attempts; null where it is not known.",
}


def outcome_schema() -> pa.Schema:
    """Build the Arrow schema of the `media` table, with the descriptions as field metadata."""
    import pyarrow as pa

    types = dict.fromkeys(OUTCOME_DESCRIPTIONS, pa.string())
    types |= dict.fromkeys(("duration_sec", "minutes_billed"), pa.float64())
    types |= dict.fromkeys(("attempts", "segments"), pa.int32())
    types |= dict.fromkeys(("submitted_at", "finished_at", "embedded_at"), pa.timestamp("us", tz="UTC"))
    required = {"media", "media_uri", "state", "attempts"}
    return pa.schema(
        pa.field(name, types[name], name not in required, {"description": description})
        for name, description in OUTCOME_DESCRIPTIONS.items()
    )


def write_outcomes(store: SegmentStore, outcomes: Iterable[MediaOutcome]) -> WrittenFile:
    """Replace the `media` table atomically, with memory bounded by some ten thousand rows.

    Args:
        store: The dataset.
        outcomes: One for each media file.

    Returns:
        The file that was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = outcome_schema()
    rows = 0
    waiting = iter(outcomes)
    with store.storage.publishing(PATH) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while batch := list(islice(waiting, _BATCH_ROWS)):
                values = [_shown(outcome) for outcome in batch]
                writer.write_table(pa.Table.from_pylist(values, schema=schema))
                rows += len(batch)
        size = temporary.stat().st_size
    return WrittenFile(store.storage.uri(PATH), PATH, rows, size)


def read_outcomes(store: SegmentStore) -> pa.Table:
    """Read the `media` table; empty before it was first written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = store.storage.read(PATH)
    return outcome_schema().empty_table() if data is None else pq.read_table(pa.BufferReader(data))


def _shown(outcome: MediaOutcome) -> dict[str, Any]:
    shown = dataclasses.asdict(outcome)
    shown["media_uri"] = without_credentials(outcome.media_uri)
    shown["error"] = None if outcome.error is None else redact(outcome.error)
    return shown
