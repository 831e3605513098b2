"""Tasks of ours that no event tells of, found again in the platform's list after a run died."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from embed_pipeline.orchestration.open_submissions import Window
from embed_pipeline.orchestration.versions import content_of, task_version

if TYPE_CHECKING:
    from embed_pipeline.client import CreateTaskRequest, EmbedClient, MediaEmbeddingTask, SourceRef
    from embed_pipeline.orchestration.ledger import Sighting


@dataclass(frozen=True, slots=True)
class Spell:
    """A time in which a source held the sought content.

    Args:
        marker: What the source leaves in the list.
        start: When the content was first told; None if it never held another.
        end: When other content was told; None if it holds it still.
    """

    marker: SourceRef
    start: datetime | None = None
    end: datetime | None = None

    def covers(self, at: datetime) -> bool:
        """Whether a task created then, by our clock, embedded the sought content.

        The platform tells its time in whole seconds and its answer takes its time, so that ``at`` may lie up to about a
        second after the truth, and never before it.
        """
        return (self.start is None or at >= self.start) and (self.end is None or at <= self.end)


@dataclass(frozen=True, slots=True)
class Sought:
    """What a task that serves a media file looks like in the list.

    Args:
        request: What it was asked for.
        spells: Where its content was to be had, and when; empty where it leaves no mark, as base64 does.
    """

    request: CreateTaskRequest
    spells: tuple[Spell, ...]


@dataclass(frozen=True)
class Adoption:
    """What the list says of the sought media files.

    Args:
        found: The task that was left behind, by partition key.
        undecided: Why it cannot be told whether there is one, by partition key.
    """

    found: dict[str, MediaEmbeddingTask] = field(default_factory=dict)
    undecided: dict[str, str] = field(default_factory=dict)


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


def unclaimed(tasks: Iterable[MediaEmbeddingTask], claimed: Collection[str]) -> list[MediaEmbeddingTask]:
    """The tasks that may give a result and that no event tells of, oldest first."""
    left = [task for task in tasks if task.id and task.status != "failed" and task_version(task.id) not in claimed]
    return sorted(left, key=lambda task: (task.created_at or datetime.max.replace(tzinfo=UTC), str(task.id)))


def adoptable(
    sought: Mapping[str, Sought],
    tasks: Sequence[MediaEmbeddingTask],
    claimed: Collection[str],
    *,
    clock_offset_sec: float = 0.0,
) -> Adoption:
    """Find the task that serves each sought media file, if one was left behind.

    Args:
        sought: What is looked for, by partition key; each is a content of its own.
        tasks: What the platform lists.
        claimed: Versions of the tasks that an event tells of already.
        clock_offset_sec: How far the platform's clock is ahead of ours, in seconds.
    """
    left = unclaimed(tasks, claimed)
    names_sources = any(_names_its_source(task) for task in tasks)
    fitting: dict[str, list[MediaEmbeddingTask]] = {}
    wanted_by: dict[str, list[str]] = {}
    adoption = Adoption()
    for key, wanted in sought.items():
        for task in left:
            if _fits(task, wanted, clock_offset_sec):
                fitting.setdefault(key, []).append(task)
                wanted_by.setdefault(str(task.id), []).append(key)
        if key in fitting or (wanted.spells and names_sources):
            continue
        nameless = next((task for task in left if not _names_its_source(task) and _as_asked(task, wanted)), None)
        if nameless is not None:
            adoption.undecided[key] = (
                f"a run died while it was creating tasks, and task {nameless.id}, whose source the platform does not "
                "tell, may be this file's. To pay for another one, submit it with force."
            )
    for key, fits in fitting.items():
        own = [task for task in fits if len(wanted_by[str(task.id)]) == 1]
        if own:
            adoption.found[key] = own[0]
        else:
            others = ", ".join(other for other in wanted_by[str(fits[0].id)] if other != key)
            adoption.undecided[key] = (
                f"a run died while it was creating tasks, and task {fits[0].id} may be this file's or {others}'s. "
                "To pay for another one, submit it with force."
            )
    return adoption


def spells_of(
    fingerprint: str, sightings: Sequence[Sighting]
) -> list[tuple[str | None, datetime | None, datetime | None]]:
    """When a media file held a content: its URI then, from when (None for always), and until when (None for now).

    Args:
        fingerprint: The content.
        sightings: What was told of the media file, oldest first.
    """
    spells: list[tuple[str | None, datetime | None, datetime | None]] = []
    holding = False
    for number, seen in enumerate(sightings):
        if content_of(seen.version) == fingerprint:
            if not holding:
                spells.append((seen.uri, seen.at if number else None, None))
            holding = True
        elif holding:
            uri, start, _ = spells[-1]
            spells[-1] = (uri, start, seen.at)
            holding = False
    return spells


def _names_its_source(task: MediaEmbeddingTask) -> bool:
    media = task.media
    return media is not None and bool(media.input_url or media.input_filename)


def _fits(task: MediaEmbeddingTask, wanted: Sought, clock_offset_sec: float) -> bool:
    from embed_pipeline.client.search import compare_source, settings_agree

    at = None if task.created_at is None else task.created_at - timedelta(seconds=clock_offset_sec)
    return any(
        (at is None or spell.covers(at))
        and settings_agree(task, wanted.request)
        and compare_source(task, spell.marker) == "same"
        for spell in wanted.spells
    )


def _as_asked(task: MediaEmbeddingTask, wanted: Sought) -> bool:
    """Whether it is a task with this request, as far as the list tells, whatever its source."""
    from embed_pipeline.client.search import settings_agree

    return not _names_its_source(task) and settings_agree(task, wanted.request)


def whole_seconds(at: datetime) -> datetime:
    """The time without its fraction, as the list filters take it."""
    return at.astimezone(UTC).replace(microsecond=0)
