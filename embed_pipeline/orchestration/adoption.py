"""Tasks of ours that no event tells of, found again in the platform's list after a run died."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from embed_pipeline.orchestration.open_submissions import Window
from embed_pipeline.orchestration.sources import without_query
from embed_pipeline.orchestration.versions import task_version

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient, MediaEmbeddingTask


@dataclass(frozen=True, slots=True)
class Sought:
    """What a task that serves a media file looks like in the list.

    Args:
        mark: Its source's URL without query, or the upload's file name.
        request: What it was asked for: the keywords of ``tasks.create`` but for the source.
        changed_at: When the content last changed; an earlier task embedded something else.
    """

    mark: str
    request: Mapping[str, Any]
    changed_at: datetime | None


def listed_tasks(client: EmbedClient, windows: Iterable[Window]) -> list[MediaEmbeddingTask]:
    """Every task the platform lists that was created within the windows, each once."""
    found: dict[str, MediaEmbeddingTask] = {}
    for window in windows:
        for task in client.v_2.tasks.list(
            started_at=whole_seconds(window.start),
            ended_at=whole_seconds(window.end + timedelta(seconds=1)),
            page_limit=50,
        ):
            if task.id:
                found.setdefault(task.id, task)
    return list(found.values())


def adoptable(
    sought: Mapping[str, Sought], tasks: Iterable[MediaEmbeddingTask], claimed: Collection[str]
) -> dict[str, MediaEmbeddingTask]:
    """The task that serves each sought media file, if one was left behind.

    Args:
        sought: What is looked for, by partition key.
        tasks: What the platform lists.
        claimed: Versions of the tasks that an event tells of already.
    """
    by_mark: dict[str, list[MediaEmbeddingTask]] = {}
    for task in tasks:
        if task.id and task.status != "failed" and task_version(task.id) not in claimed:
            for mark in _marks(task):
                by_mark.setdefault(mark, []).append(task)
    found: dict[str, MediaEmbeddingTask] = {}
    taken: set[str] = set()
    for key, wanted in sought.items():
        for task in by_mark.get(wanted.mark, []):
            if task.id not in taken and _fits(task, wanted):
                found[key] = task
                taken.add(str(task.id))
                break
    return found


def _marks(task: MediaEmbeddingTask) -> list[str]:
    media = task.media
    if media is None:
        return []
    return [
        *([without_query(media.input_url)] if media.input_url else []),
        *([media.input_filename] if media.input_filename else []),
    ]


def _fits(task: MediaEmbeddingTask, wanted: Sought) -> bool:
    if task.model_name and task.model_name != wanted.request["model_name"]:
        return False
    if wanted.changed_at is not None and task.created_at is not None and task.created_at < wanted.changed_at:
        return False
    asked = wanted.request[wanted.request["input_type"]]
    listed = task.media
    return listed is None or (
        _same(listed.embedding_options, asked["embedding_option"])
        and _same(listed.embedding_scopes, asked["embedding_scope"])
    )


def _same(listed: Sequence[str] | None, asked: Sequence[str]) -> bool:
    """Whether the list names what was asked for; what it leaves out says nothing."""
    return not listed or set(listed) == set(asked)


def whole_seconds(at: datetime) -> datetime:
    """The time without its fraction, as the list filters take it."""
    return at.astimezone(UTC).replace(microsecond=0)
