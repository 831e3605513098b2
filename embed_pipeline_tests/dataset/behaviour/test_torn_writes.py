from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from embed_pipeline.dataset import EmbeddingDataset, read_embeddings
from embed_pipeline_tests.dataset.behaviour.crashing import KEYS, write_generation


def check_whole(dataset, source, generations=None):
    """Reads everything; fails if a media file is missing, is partly there, or is of two generations."""
    vectors, frame = read_embeddings(dataset, to="matrix", source=source)
    assert sorted(set(frame["media"])) == KEYS
    for _, rows in frame.groupby("media"):
        assert len(rows) == 201
        assert rows["task_id"].nunique() == 1
        generation = rows["task_id"].iloc[0]
        assert generations is None or generation in generations
        assert (vectors[rows.index] == np.float32(generation)).all()


def read_while_killed(dataset, kills, seconds):
    """Reads in a loop while a writer is killed again and again; returns how often each was done."""
    command = [
        sys.executable,
        "-m",
        "embed_pipeline_tests.dataset.behaviour.crashing",
        dataset.root,
        str(kills),
        str(seconds),
    ]
    reads = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None:
                for source in ("segments", "snapshot"):
                    check_whole(dataset, source)
                    reads += 1
        finally:
            process.kill()
        return int(process.stdout.read()), reads


@pytest.mark.slow
def test_a_killed_writer_never_leaves_or_shows_anything_torn(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    write_generation(dataset, 0)
    dataset.compact()
    died, reads = read_while_killed(dataset, kills=15, seconds=0.1)
    assert died == 15
    assert reads >= 10
    dataset.sweep(now=datetime.now(UTC) + timedelta(days=2))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    used = {file.path for snapshot in dataset.snapshots() for file in snapshot.files}
    data = {str(path.relative_to(tmp_path)) for path in (tmp_path / "embeddings_table" / "data").rglob("*.parquet")}
    assert data == used
    for source in ("segments", "snapshot"):
        check_whole(dataset, source)


@pytest.mark.slow
def test_a_crash_at_any_step_leaves_the_old_or_the_new(tmp_path):
    dataset = EmbeddingDataset(str(tmp_path))
    write_generation(dataset, 0)
    dataset.compact()
    command = [sys.executable, "-m", "embed_pipeline_tests.dataset.behaviour.crash_steps", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # Two files of segments, a table, its sources and two manifests: each is opened, synced and renamed.
    assert int(done.stdout) > 15
