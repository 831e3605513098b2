from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from embed_pipeline.dataset import EmbeddingDataset, ParquetEncoding
from embed_pipeline_tests.dataset.values import make_segments

MEASURE = """
import sys
import numpy as np
import pyarrow as pa
from embed_pipeline.dataset import EmbeddingDataset, ParquetEncoding, nearest
dataset = EmbeddingDataset(sys.argv[1], encoding=ParquetEncoding(row_group_rows=1000))
if sys.argv[2] == "compact":
    dataset.compact()
else:
    nearest(dataset, np.ones(128), k=10)
print(pa.default_memory_pool().max_memory())
"""


def peak_bytes(root, work):
    """The most memory that Arrow held at once while a process of its own did the work."""
    command = [sys.executable, "-c", MEASURE, str(root), work]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(tmp_path):
    encoding = ParquetEncoding(row_group_rows=1000)
    peaks = {}
    for files in (12, 48):
        root = tmp_path / str(files)
        dataset = EmbeddingDataset(str(root), encoding=encoding)
        for number in range(files):
            vectors = np.random.default_rng(number).standard_normal((1001, 128), np.float32)
            dataset.write(make_segments(f"{number}.mp4", clips=500, embedding=vectors))
        for work in ("compact", "search"):
            peaks[work, files] = peak_bytes(root, work)
    for work in ("compact", "search"):
        assert peaks[work, 48] < 1.5 * peaks[work, 12], peaks
