"""Which media files a run left for later, and why: told once for the whole run, and read back for those that wait.

A run may leave ten thousand files to the next day, and an event for each would cost minutes. So one observation of
``embedding_tasks`` names them as ranges of partition keys, and a tag on the run finds it again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.ranges import contiguous_ranges

_METADATA = "embed_pipeline/left_for_later"
_TAGGED = "yes"
# What is left is, as a rule, the end of what a run was asked for. Files all over the library are counted, not named.
_MOST_RANGES = 500
_RUNS_READ = 20


def files_by_reason(held: Mapping[str, str]) -> dict[str, list[str]]:
    """The media files that were left for later, by the reason why."""
    found: dict[str, list[str]] = {}
    for key, reason in held.items():
        found.setdefault(reason, []).append(key)
    return found


def tell_left_for_later(
    instance: dg.DagsterInstance, names: PipelineNames, run_id: str, held: Mapping[str, str], order: Sequence[str]
) -> dg.AssetObservation:
    """Mark a run as one that left files for later.

    Args:
        instance: The Dagster instance.
        names: The pipeline's names.
        run_id: The run.
        held: Why each media file was left, by partition key.
        order: Every partition key, in key order.

    Returns:
        What the run is to log.
    """
    instance.add_run_tags(run_id, {names.left_for_later_tag: _TAGGED})
    told, left = [], _MOST_RANGES
    for reason, keys in files_by_reason(held).items():
        ranges = [[some.keys[0], some.keys[-1]] for some in contiguous_ranges(keys, order, len(order))][:left]
        told.append({"reason": reason, "files": len(keys), "ranges": ranges})
        left -= len(ranges)
    return dg.AssetObservation(
        names.embedding_tasks,
        description=f"{len(held)} media files are left for later.",
        metadata={"embed_pipeline/held": len(held), _METADATA: dg.MetadataValue.json(told)},
    )


def read_left_for_later(
    instance: dg.DagsterInstance,
    names: PipelineNames,
    keys: Collection[str],
    order: Sequence[str],
    told_at: Mapping[str, int],
) -> dict[str, str]:
    """Why the latest run that was asked for each of these media files left it for later, and when.

    Args:
        instance: The Dagster instance.
        names: The pipeline's names.
        keys: Media files without a task.
        order: Every partition key, in key order.
        told_at: The storage id of the event that told what each file holds; what was said of other content before does
            not count.
    """
    found: dict[str, str] = {}
    waiting = set(keys)
    if not waiting:
        return found
    position = {key: number for number, key in enumerate(order)}
    runs = instance.get_run_records(dg.RunsFilter(tags={names.left_for_later_tag: _TAGGED}), limit=_RUNS_READ)
    for run in runs:
        for storage_id, at, told in _told_by(instance, names, run.dagster_run.run_id):
            for each in told:
                for key in _keys_in(each["ranges"], position, order):
                    if key in waiting and key not in found and storage_id > told_at.get(key, 0):
                        found[key] = f"{each['reason']} (told {at:%d %b %H:%M} UTC)"
    return found


def _told_by(
    instance: dg.DagsterInstance, names: PipelineNames, run_id: str
) -> Iterator[tuple[int, datetime, list[dict[str, Any]]]]:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION).records
    for record in reversed(records):
        event = record.event_log_entry.asset_observation
        if event is not None and event.asset_key == names.embedding_tasks and _METADATA in event.metadata:
            told: Any = event.metadata[_METADATA].value
            yield record.storage_id, datetime.fromtimestamp(record.event_log_entry.timestamp, tz=UTC), told


def _keys_in(ranges: Sequence[Sequence[str]], position: Mapping[str, int], order: Sequence[str]) -> Iterator[str]:
    for start, end in ranges:
        if start in position and end in position:
            yield from order[position[start] : position[end] + 1]
