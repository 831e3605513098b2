"""Retiring what vanished: which contents must stay because a file waits for them, and the one order of removal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.observations import retirement
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.states import MediaState

if TYPE_CHECKING:
    from embed_pipeline.dataset import EmbeddingDataset

_WITHOUT_SEGMENTS = frozenset(MediaState) - {MediaState.EMBEDDED, MediaState.GONE}


@dataclass(frozen=True, slots=True)
class Retired:
    """What was retired.

    Args:
        keys: The media files, in the order in which they went.
        files_removed: Files that the dataset had of them.
    """

    keys: tuple[str, ...] = ()
    files_removed: int = 0


def awaited_contents(ledger: Ledger, present: Mapping[str, str] | None = None) -> set[str]:
    """The contents that a file which is there waits for: a name that is gone may have all that is left of them.

    Args:
        ledger: What is known so far.
        present: The content of files that were read just now, by partition key; what is new or changed among them
            is not in the ledger yet.
    """
    versions = ledger.media_versions()
    awaited = {
        versions[key] for key, state in ledger.states().items() if state in _WITHOUT_SEGMENTS and key in versions
    }
    return awaited | {content for key, content in (present or {}).items() if versions.get(key) != content}


def retire_media(
    instance: dg.DagsterInstance,
    names: PipelineNames,
    dataset: EmbeddingDataset,
    keys: Sequence[str],
    *,
    settings: EmbeddingSettings,
    budget_sec: float | None = None,
) -> Retired:
    """Remove media files that are gone: their segments and their partitions.

    Each is told before it is done, so that a file which comes back is pending and never taken for embedded; and its
    partition goes before the next one's turn, so that whoever is interrupted goes on where it stopped.

    Args:
        instance: The Dagster instance.
        names: The pipeline's names.
        dataset: Where the segments are.
        keys: The partition keys of the media files.
        settings: What the pipeline embeds with. Only segments of these settings, and of those that its earlier tasks
            tell, are removed: another program may keep its own below the same root.
        budget_sec: Seconds after which the rest is left; None for no limit. One is always retired.
    """
    deadline = None if budget_sec is None else time.monotonic() + budget_sec
    ledger, current = Ledger(instance, names), {settings.digest("audio"), settings.digest("video")}
    done: list[str] = []
    removed = 0
    for key in keys:
        if done and deadline is not None and time.monotonic() > deadline:
            break
        instance.report_runless_asset_event(retirement(names, key))
        digests = current | {record.settings_digest for record in ledger.task_records([key]).get(key, [])}
        removed += sum(dataset.delete(key, digest) for digest in sorted(digests))
        instance.delete_dynamic_partition(names.partitions, key)
        done.append(key)
    return Retired(tuple(done), removed)
