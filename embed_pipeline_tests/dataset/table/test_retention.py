from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from embed_pipeline.dataset import EmbeddingDataset, read_embeddings
from embed_pipeline_tests.dataset.table.test_compaction import KEYS, fill, rows_of
from embed_pipeline_tests.dataset.values import DIGEST, make_segments


def test_old_snapshots_stay_until_retention_takes_them(dataset):
    ids = []
    for key in KEYS[:4]:
        fill(dataset, [key])
        ids.append(dataset.compact(retain=2).snapshot_id)
    assert [snapshot.snapshot_id for snapshot in dataset.snapshots()] == ids[-2:]
    used = {file.path for snapshot in dataset.snapshots() for file in snapshot.files}
    stored = {file.path for file in dataset.storage.files("embeddings_table/data/space=marengo3.0-8")}
    assert stored == used


def test_a_crash_before_the_manifest_leaves_the_old_snapshot_and_is_swept(tmp_path, monkeypatch):
    dataset = EmbeddingDataset(str(tmp_path))
    fill(dataset, KEYS[:2])
    before = dataset.compact()
    fill(dataset, KEYS[2:])
    monkeypatch.setattr(
        "embed_pipeline.dataset.table.snapshot.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        dataset.compact()
    monkeypatch.undo()
    assert dataset.snapshot() == before
    assert dataset.sweep() == []
    orphans = dataset.sweep(now=datetime.now(UTC) + timedelta(days=2))
    assert len(orphans) == 1
    assert orphans[0].startswith("embeddings_table/data/")
    assert len(read_embeddings(dataset, source="snapshot")) == before.rows


def test_sweeping_takes_leftovers_and_nothing_else(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    # What a crash between the new file and the removal of the old one leaves behind.
    EmbeddingDataset(str(tmp_path / "elsewhere")).write(make_segments(KEYS[0], model_name="signal-2"))
    fill(dataset)
    (tmp_path / "elsewhere" / "segments" / "space=signal-2-8").rename(tmp_path / "segments" / "space=signal-2-8")
    dataset.compact()
    folder = tmp_path / "segments" / "space=marengo3.0-8" / f"settings={DIGEST}"
    for place in (folder, tmp_path / "embeddings_table", tmp_path):
        (place / ".writing-0123.tmp").write_bytes(b"half")
    before = rows_of(dataset, "segments")
    removed = dataset.sweep(now=datetime.now(UTC) + timedelta(days=2))
    assert len(removed) == 4
    assert sum(path.endswith(".tmp") for path in removed) == 3
    assert rows_of(dataset, "segments") == before
    assert rows_of(dataset, "snapshot") == before
