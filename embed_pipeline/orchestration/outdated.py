"""Tasks that were told under other embedding settings, found without reading every event at every tick.

Dagster's index does not hold the code version that an event carries, so events have to be read. They are read once, in
their order and some at each tick; the sensor's cursor says how far, and under which settings. An event that is outdated
holds the cursor back until its media file has a later one, so nothing is forgotten; a cursor that was wiped only costs
reading again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import dagster as dg

from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.versions import is_gone

CODE_VERSION_TAG = "dagster/code_version"
_EVENTS_PER_TICK = 2000
_EVENTS_PER_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far the events have been found to be of the present settings.

    Args:
        code_version: The settings as a whole.
        verified: The storage id up to which no event is outdated.
    """

    code_version: str
    verified: int = 0

    @classmethod
    def parse(cls, cursor: str | None, code_version: str) -> Watermark:
        """Read a sensor's cursor; from the beginning where it is missing, broken or of other settings."""
        try:
            values = json.loads(cursor or "{}")
            if values.get("code_version") == code_version:
                return cls(code_version, int(values["verified"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return cls(code_version)

    def __str__(self) -> str:
        return json.dumps({"code_version": self.code_version, "verified": self.verified})


@dataclass(frozen=True, slots=True)
class ToldTask:
    """An event that told which task serves a media file, and under which settings."""

    key: str
    storage_id: int
    code_version: str | None


def advance(
    watermark: Watermark, events: Iterable[ToldTask], latest: Mapping[str, int], excused: Collection[str] = ()
) -> tuple[list[str], Watermark]:
    """Judge some events that follow the watermark.

    Args:
        watermark: How far the events are known to be of the present settings.
        events: Events that follow it, in their order.
        latest: The storage id of each media file's latest event.
        excused: Media files whose task need not be of the present settings: refused or gone ones.

    Returns:
        The partition keys whose latest task is outdated, and the watermark moved up to the first of them.
    """
    outdated: list[str] = []
    for event in events:
        is_latest = latest.get(event.key) == event.storage_id
        if is_latest and event.code_version != watermark.code_version and event.key not in excused:
            outdated.append(event.key)
        elif not outdated:
            watermark = Watermark(watermark.code_version, event.storage_id)
    return outdated, watermark


def find_outdated(
    instance: dg.DagsterInstance,
    names: PipelineNames,
    watermark: Watermark,
    latest: Mapping[str, int],
    excused: Collection[str],
) -> tuple[list[str], Watermark]:
    """Read on from the watermark, a bounded number of events; nothing is read where it is at the latest."""
    if watermark.verified >= max(latest.values(), default=0):
        return [], watermark
    return advance(watermark, _told_after(instance, names, watermark.verified, _EVENTS_PER_TICK), latest, excused)


def find_all_outdated(
    instance: dg.DagsterInstance,
    names: PipelineNames,
    code_version: str,
    latest: Mapping[str, int],
    excused: Collection[str],
) -> list[str]:
    """Read all events from the first one on, however many there are: for a run, which no tick's time limits."""
    outdated: list[str] = []
    position, newest = 0, max(latest.values(), default=0)
    while position < newest:
        page = list(_told_after(instance, names, position, _EVENTS_PER_PAGE))
        if not page:
            break
        outdated += advance(Watermark(code_version), page, latest, excused)[0]
        position = page[-1].storage_id
    return outdated


def excused_from_settings(ledger: Ledger, order: Collection[str], versions: Mapping[str, str], terms: str) -> set[str]:
    """The media files whose task need not be of the present settings: refused or gone ones.

    Args:
        ledger: What is known so far.
        order: Every partition key.
        versions: The latest version of each media file.
        terms: A digest of what a content is refused under at present.
    """
    present = {key for key in order if key in versions and not is_gone(versions[key])}
    refused = {key for key, outcome in ledger.outcomes().items() if outcome.refuses(versions.get(key), terms)}
    return (set(ledger.task_event_ids()) - present) | refused


def _told_after(instance: dg.DagsterInstance, names: PipelineNames, storage_id: int, limit: int) -> Iterator[ToldTask]:
    left = limit
    while left > 0:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=names.embedding_tasks, after_storage_id=storage_id),
            limit=min(left, _EVENTS_PER_PAGE),
            ascending=True,
        ).records
        for event in page:
            materialization = event.asset_materialization
            if materialization is not None and materialization.partition is not None:
                tags = materialization.tags or {}
                yield ToldTask(materialization.partition, event.storage_id, tags.get(CODE_VERSION_TAG))
            storage_id = event.storage_id
        if len(page) < min(left, _EVENTS_PER_PAGE):
            return
        left -= len(page)
