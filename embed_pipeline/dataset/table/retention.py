"""Removal of old snapshots, and of files that crashes left behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from embed_pipeline.dataset import paths
from embed_pipeline.dataset.storage import TEMPORARY_PREFIX
from embed_pipeline.dataset.table import snapshot as snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embed_pipeline.dataset.storage import Storage, StoredFile
    from embed_pipeline.dataset.store import SegmentFile, SegmentStore


def retire(storage: Storage, retain: int) -> list[str]:
    """Remove all but the newest snapshots and the current one, and the files that only they used.

    Args:
        storage: The files below the dataset's root.
        retain: The number of snapshots to keep, at least 1.

    Returns:
        The files that were removed, relative to the root.
    """
    kept = snapshots.read_kept(storage)
    current = snapshots.read_current(storage)
    staying = {snapshot.snapshot_id for snapshot in kept[-max(retain, 1) :]}
    if current is not None:
        staying.add(current.snapshot_id)
    used = {file.path for snapshot in kept if snapshot.snapshot_id in staying for file in snapshot.files}
    used.update(file.path for file in (current.files if current else ()))
    removed = []
    for old in kept:
        if old.snapshot_id not in staying:
            # Its manifest goes first: a snapshot that is listed is whole.
            expired = [old.history_path, old.sources_path, *(f.path for f in old.files if f.path not in used)]
            removed += [path for path in expired if storage.remove(path)]
    return removed


def sweep(
    store: SegmentStore, *, older_than: timedelta = timedelta(hours=24), now: datetime | None = None
) -> list[str]:
    """Remove temporary files, files of snapshots that were never finished, and results in a superseded vector space.

    Safe at any time: the files of a write or a compaction that still runs are younger than `older_than`.

    Args:
        store: The dataset.
        older_than: The least age of what is removed.
        now: The time to judge by; None is the present.

    Returns:
        The files that were removed, relative to the root.
    """
    before = ((now or datetime.now(UTC)) - older_than).timestamp()
    # A file without a date is kept.
    old = [file.path for file in _leftovers(store) if file.modified is not None and file.modified <= before]
    return [path for path in old if store.storage.remove(path)]


def _leftovers(store: SegmentStore) -> Iterator[StoredFile | SegmentFile]:
    storage = store.storage
    folders = ["", *(f"{paths.SEGMENTS}/{name}" for name in storage.folders(paths.SEGMENTS))]
    for folder in folders[1:].copy():
        folders += [f"{folder}/{name}" for name in storage.folders(folder)]
    data = [f"{snapshots.DATA}/{name}" for name in storage.folders(snapshots.DATA)]
    folders += [snapshots.FOLDER, snapshots.HISTORY, *data]
    for folder in folders:
        for file in storage.files(folder):
            if file.path.rpartition("/")[2].startswith(TEMPORARY_PREFIX):
                yield file
    yield from _unfinished(storage, data)
    yield from _superseded(store)


def _unfinished(storage: Storage, folders: list[str]) -> Iterator[StoredFile]:
    # Listed before the manifests are read: a file that is published in between is then not even looked at.
    candidates = [file for folder in [*folders, snapshots.HISTORY] for file in storage.files(folder)]
    kept = snapshots.read_kept(storage)
    current = snapshots.read_current(storage)
    used = {snapshots.MANIFEST}
    for snapshot in [*kept, *([current] if current else [])]:
        used.update((snapshot.history_path, snapshot.sources_path), (file.path for file in snapshot.files))
    yield from (file for file in candidates if file.path not in used and file.path.endswith(paths.SUFFIX))


def _superseded(store: SegmentStore) -> Iterator[SegmentFile]:
    newest: dict[tuple[str, str], SegmentFile] = {}
    for file in store.segment_files():
        key = (file.name, file.settings_digest)
        other = newest.setdefault(key, file)
        if other is not file:
            old, new = sorted((other, file), key=lambda each: each.modified or 0.0)
            newest[key] = new
            yield old
