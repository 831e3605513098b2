"""Sweeping: what crashes left behind is removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from embed_pipeline.dataset import paths
from embed_pipeline.dataset import snapshot as snapshots
from embed_pipeline.dataset.storage import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embed_pipeline.dataset.storage import StoredFile
    from embed_pipeline.dataset.store import EmbeddingDataset, SegmentFile


def sweep(
    dataset: EmbeddingDataset, *, older_than: timedelta = timedelta(hours=24), now: datetime | None = None
) -> list[str]:
    """Removes temporary files, files of snapshots that were never finished, and results in a superseded vector space.

    Safe at any time: whatever a write or a compaction may still be working on is younger than `older_than`.

    Args:
        dataset: The dataset.
        older_than: The least age of what is removed.
        now: The time to judge by; None is the present.

    Returns:
        The files that were removed, relative to the root.
    """
    before = ((now or datetime.now(UTC)) - older_than).timestamp()
    # What a store does not date is kept.
    old = [file.path for file in _leftovers(dataset) if file.modified is not None and file.modified <= before]
    return [path for path in old if dataset.storage.remove(path)]


def _leftovers(dataset: EmbeddingDataset) -> Iterator[StoredFile | SegmentFile]:
    storage = dataset.storage
    folders = ["", *(f"{paths.SEGMENTS}/{name}" for name in storage.folders(paths.SEGMENTS))]
    for folder in folders[1:].copy():
        folders += [f"{folder}/{name}" for name in storage.folders(folder)]
    data = [f"{snapshots.DATA}/{name}" for name in storage.folders(snapshots.DATA)]
    folders += [snapshots.FOLDER, snapshots.HISTORY, *data]
    for folder in folders:
        for file in storage.files(folder):
            if file.path.rpartition("/")[2].startswith(TEMPORARY_PREFIX):
                yield file
    yield from _unfinished(dataset, data)
    yield from _superseded(dataset)


def _unfinished(dataset: EmbeddingDataset, folders: list[str]) -> Iterator[StoredFile]:
    storage = dataset.storage
    # Listed before the manifests are read: a file that is published in between is then not even looked at.
    candidates = [file for folder in [*folders, snapshots.HISTORY] for file in storage.files(folder)]
    kept = snapshots.read_kept(storage)
    current = snapshots.read_current(storage)
    used = {snapshots.MANIFEST}
    for snapshot in [*kept, *([current] if current else [])]:
        used.update((snapshot.history_path, snapshot.sources_path), (file.path for file in snapshot.files))
    yield from (file for file in candidates if file.path not in used and file.path.endswith(paths.SUFFIX))


def _superseded(dataset: EmbeddingDataset) -> Iterator[SegmentFile]:
    newest: dict[tuple[str, str], SegmentFile] = {}
    for file in dataset.segment_files():
        key = (file.name, file.settings_digest)
        other = newest.setdefault(key, file)
        if other is not file:
            old, new = sorted((other, file), key=lambda each: each.modified or 0.0)
            newest[key] = new
            yield old
