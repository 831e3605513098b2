"""The result of one task: fetched from the platform, checked, written to the dataset."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

import dagster as dg

from embed_pipeline.orchestration.findings import Findings, judge
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.metadata import settings_in_words
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.pictures import self_similarity, timeline
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.settings import EmbeddingSettings, MediaType
from embed_pipeline.orchestration.told_findings import finding_metadata
from embed_pipeline.orchestration.versions import SEGMENTS_CODE_VERSION, version_tags

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient, EmbeddingTaskResponse
    from embed_pipeline.dataset import EmbeddingDataset, MediaSegments, WrittenFile


class EmbeddedTasks:
    """Under which names the dataset may have a task's segments; read once, when first asked, for all of a run.

    Args:
        ledger: What is known at that moment.
        tasks: The versions of the run's tasks.
    """

    def __init__(self, ledger: Ledger, tasks: Collection[str]) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._lock = Lock()
        self._names: dict[str, set[str]] | None = None

    def names(self, version: str) -> Collection[str]:
        """The partition keys that were ever embedded with a task.

        Args:
            version: The task's version.
        """
        with self._lock:
            if self._names is None:
                self._names = self._ledger.ever_embedded(self._tasks)
            return self._names.get(version, ())


@dataclass(frozen=True)
class Collected:
    """A result that is in the dataset."""

    written: WrittenFile
    segments: MediaSegments
    ready_at: datetime | None
    absent: tuple[str, ...]
    usage: Mapping[str, int]

    def metadata(self, task: TaskRecord, *, pictures: bool = True) -> dict[str, Any]:
        """What the partition's page tells of it: numbers that plot, words, and pictures.

        Args:
            task: The task that made it.
            pictures: Whether to draw how alike the segments are.
        """
        from embed_pipeline.media import decode_partition_key

        segments = self.segments
        drawn = {
            "timeline": _drawn(timeline, segments),
            "self_similarity": _drawn(self_similarity, segments) if pictures else None,
        }
        # In the order in which the page shows it.
        values: dict[str, Any] = {
            "embed_pipeline/path": decode_partition_key(task.media),
            **{f"embed_pipeline/{name}": dg.MetadataValue.md(text) for name, text in drawn.items() if text is not None},
            "embed_pipeline/segments": self.written.rows,
            "embed_pipeline/dimension": segments.dimension,
            "embed_pipeline/space": segments.space,
            "embed_pipeline/task_id": task.task_id,
            "embed_pipeline/attempt": task.attempt,
            "embed_pipeline/media_type": segments.media_type,
            "embed_pipeline/settings": settings_in_words(segments.settings),
            "embed_pipeline/settings_digest": segments.settings_digest,
            "dagster/uri": self.written.uri,
            "dagster/partition_row_count": self.written.rows,
            "dagster/size_bytes": self.written.size_bytes,
        }
        if segments.duration_sec is not None:
            values["embed_pipeline/media_sec"] = round(segments.duration_sec, 3)
            values["embed_pipeline/minutes"] = round(segments.duration_sec / 60, 4)
        if self.ready_at is not None:
            # Two clocks: ours had the answer when the platform's may have been done already.
            waited = max((self.ready_at - task.submitted_at).total_seconds(), 0.0)
            values["embed_pipeline/wait_sec"] = round(waited, 3)
            values["embed_pipeline/ready_at"] = dg.MetadataValue.timestamp(self.ready_at)
        if self.absent:
            values["embed_pipeline/absent_options"] = ", ".join(self.absent)
        for content, tokens in self.usage.items():
            values[f"embed_pipeline/input_tokens_{content}"] = tokens
        return values


def _drawn(draw: Callable[[MediaSegments], str | None], segments: MediaSegments) -> str | None:
    """A picture, or why there is none: a result that is in the dataset is not lost for want of one."""
    try:
        return draw(segments)
    except Exception as error:
        return f"This picture could not be drawn ({type(error).__name__}: {error})."


@dataclass(frozen=True)
class Failed:
    """The platform could not embed the content; ``passing`` if another attempt may succeed."""

    message: str
    passing: bool


@dataclass(frozen=True)
class Expired:
    """The platform does not keep the result any more."""

    message: str


@dataclass(frozen=True)
class NotReady:
    """The task is still processing."""


def fetch_result(
    task: TaskRecord,
    client: EmbedClient,
    dataset: EmbeddingDataset,
    settings: EmbeddingSettings,
    embedded: EmbeddedTasks,
) -> Collected | Failed | Expired | NotReady:
    """Fetch one task's result and write it; where the platform no longer has it, take what the dataset has of it.

    Args:
        task: The task that serves the media file.
        client: The platform.
        dataset: Where segments are written.
        settings: What the task was asked for.
        embedded: Knows under which other names the same task's segments were written.
    """
    from embed_pipeline.client import EmptyResultError, NotFoundError, UnreadableResponseError, classify_failure

    try:
        response = client.v_2.tasks.retrieve(task.task_id)
    except NotFoundError as error:
        if error.code is None:
            # Not the platform's own words: a wrong address, or a gateway before it, says nothing of the task.
            raise
        return result_in_the_dataset(task, dataset, embedded.names(task.version)) or Expired(
            f"Task {task.task_id} is not known to the platform any more, and its result with it: {error}"
        )
    except UnreadableResponseError as error:
        if error.retryable:
            raise
        # Asking again gives the same; another task may give something else.
        return Failed(str(error), passing=True)
    if response.status == "ready":
        try:
            return _write(task, response, dataset, settings)
        except EmptyResultError as error:
            return Failed(str(error), passing=True)
    if response.status != "failed":
        return NotReady()
    words = response.error.message if response.error and response.error.message else "no reason given"
    kind = classify_failure(words)
    if kind == "expired":
        return result_in_the_dataset(task, dataset, embedded.names(task.version)) or Expired(
            f"Task {task.task_id}: {words}"
        )
    return Failed(words, passing=kind in {"transient", "unclear"})


def _write(
    task: TaskRecord, response: EmbeddingTaskResponse, dataset: EmbeddingDataset, settings: EmbeddingSettings
) -> Collected:
    from embed_pipeline.dataset import MediaSegments, vector_space

    rows = response.segments
    metadata = response.metadata
    media_type: MediaType = "audio" if getattr(metadata, "input_type", None) == "audio" else "video"
    engine = getattr(metadata, "embedding_engine", None)
    name = engine or settings.model_name
    request = settings.request(media_type)
    segments = MediaSegments(
        media=task.media,
        media_uri=task.media_uri,
        fingerprint=task.fingerprint,
        media_type=media_type,
        duration_sec=getattr(metadata, "duration", None),
        embedding_option=[option or "" for option in rows.embedding_option],
        embedding_scope=[scope or "" for scope in rows.embedding_scope],
        start_sec=rows.start_sec,
        end_sec=rows.end_sec,
        embedding=rows.embedding,
        embedding_uncertainty=rows.embedding_uncertainty,
        model_name=name,
        space=vector_space(name, rows.embedding.shape[1]),
        settings=request,
        settings_digest=task.settings_digest,
        task_id=task.task_id,
        created_at=task.submitted_at.astimezone(UTC),
    )
    asked = set(settings.options(media_type)) if "separate_embedding" in settings.types else set()
    usage = getattr(response, "usage", None)
    return Collected(
        written=dataset.write(segments),
        segments=segments,
        ready_at=response.updated_at,
        absent=tuple(sorted(asked - set(rows.embedding_option))),
        usage=dict(getattr(usage, "input_tokens", None) or {}),
    )


def result_in_the_dataset(task: TaskRecord, dataset: EmbeddingDataset, others: Collection[str]) -> Collected | None:
    """The same task's segments under this or another name: a renamed file costs nothing, however old its result.

    Args:
        task: The task that serves the media file.
        dataset: Where segments are written; what it has under another name is copied.
        others: Partition keys that may have been embedded with the task.

    Returns:
        What the dataset has now under the media file's own name; None if it has nothing of this task.
    """
    # Its own name too, whatever the event log says of it: a run that was deleted has taken its events with it.
    for key in [task.media, *sorted(set(others) - {task.media})]:
        segments = dataset.read_media(key, task.settings_digest)
        if segments is None or segments.task_id != task.task_id or segments.fingerprint != task.fingerprint:
            # Another task's segments, of another content perhaps, have taken their place since.
            continue
        if key == task.media:
            written = dataset.write(segments)
        else:
            copied = dataset.copy_media(key, task.media, task.media_uri, task.settings_digest)
            segments = dataset.read_media(task.media, task.settings_digest)
            if copied is None or segments is None:
                continue
            written = copied
        return Collected(written=written, segments=segments, ready_at=None, absent=(), usage={})
    return None


def result_event(
    names: PipelineNames, task: TaskRecord, result: Collected, settings: EmbeddingSettings, *, pictures: bool
) -> tuple[dg.AssetMaterialization, Findings]:
    """The event that tells of a media file's segments, and what is wrong with them.

    Args:
        names: The pipeline's names.
        task: The task that made them, as its event has it.
        result: What is in the dataset.
        settings: What the task was asked for.
        pictures: Whether to draw how alike the segments are.
    """
    findings = judge(result.segments, settings)
    event = dg.AssetMaterialization(
        names.segment_embeddings,
        partition=task.media,
        metadata=result.metadata(task, pictures=pictures) | finding_metadata(findings),
        tags=version_tags(task.version, SEGMENTS_CODE_VERSION, (names.embedding_tasks, task.version, task.storage_id)),
    )
    return event, findings
