"""Writing, compaction and search of a large dataset, with time and peak memory of each; against bare pyarrow and numpy.

Run: python benchmarks/dataset_table.py [--segments 1000000] [--dimension 512] [--folder FOLDER]
A million segments of 512 dimensions are about 2 GB and take some minutes. Every phase is a process of its own, so that
its peak memory is its own; "beyond imports" is what the peak adds to that of a process that only imports.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq

from embed_pipeline.dataset import (
    EmbeddingDataset,
    MediaSegments,
    SegmentQuery,
    nearest,
    publish_lance,
    stream_embeddings,
    vector_space,
)
from embed_pipeline.dataset.codec import matrix
from embed_pipeline.dataset.search import unit_rows
from embed_pipeline_tests.dataset.values import CREATED_AT, DIGEST

PER_MEDIA = 1000


def make(number, dimension, seed=0):
    vectors = np.random.default_rng([seed, number]).standard_normal((PER_MEDIA, dimension), np.float32)
    media = f"library/{number:06}.mp4"
    starts = np.arange(PER_MEDIA) * 6.0
    space = vector_space("marengo3.0", dimension)
    return MediaSegments(
        media, f"s3://library/{media}", f"sha256:{number}-{seed}", "video", 6000.0, ["visual"] * PER_MEDIA,
        ["clip"] * PER_MEDIA, starts, starts + 6, vectors, None, "marengo3.0", space, {},
        DIGEST, f"task-{number}", CREATED_AT,
    )  # fmt: skip


def memory_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def imports(dataset, media, dimension):
    return {}


def fill(dataset, media, dimension):
    taken = bare = 0.0
    with tempfile.TemporaryDirectory(dir=dataset.root) as folder:
        for number in range(media):
            segments = make(number, dimension)
            start = time.perf_counter()
            dataset.write(segments)
            taken += time.perf_counter() - start
            if number % 10 == 0:
                table = segments.to_arrow()
                start = time.perf_counter()
                pq.write_table(table, f"{folder}/{number}", **dataset.encoding.writer_options())
                bare += (time.perf_counter() - start) * 10
    raw = media * PER_MEDIA * dimension * 4 / 1e6
    return {"write_mb_s": raw / taken, "bare_pyarrow_mb_s": raw / bare, "ms_per_file": taken / media * 1e3}


def compact(dataset, media, dimension):
    start = time.perf_counter()
    snapshot = dataset.compact()
    taken = time.perf_counter() - start
    raw = media * PER_MEDIA * dimension * 4 / 1e6
    return {"seconds": taken, "mb_s": raw / taken, "files": len(snapshot.files), "rows": snapshot.rows}


def compact_one_changed(dataset, media, dimension):
    dataset.write(make(media // 2, dimension, seed=1))
    start = time.perf_counter()
    snapshot = dataset.compact()
    written = sum(file.size_bytes for file in snapshot.written_files) / 1e6
    return {"seconds": time.perf_counter() - start, "files_written": len(snapshot.written_files), "mb_written": written}


def compact_unchanged(dataset, media, dimension):
    start = time.perf_counter()
    dataset.compact()
    return {"seconds": time.perf_counter() - start}


def read(dataset, media, dimension):
    start = time.perf_counter()
    rows = sum(len(table) for table in stream_embeddings(dataset))
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for uri in dataset.snapshot_uris():
        for group in range((file := pq.ParquetFile(uri)).num_row_groups):
            file.read_row_group(group)
    raw = rows * dimension * 4 / 1e6
    return {"mb_s": raw / ours, "bare_pyarrow_mb_s": raw / (time.perf_counter() - start)}


def search(dataset, media, dimension):
    query = np.random.default_rng(3).standard_normal(dimension)
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        found = nearest(dataset, query, k=10)
        taken.append(time.perf_counter() - start)
    start = time.perf_counter()
    nearest(dataset, SegmentQuery(found[0].segment_id), k=10)
    return {"seconds": min(taken), "by_segment_seconds": time.perf_counter() - start}


def plain_numpy(dataset, media, dimension):
    """The same with everything in memory: read all vectors by pyarrow, one product, one sort."""
    query = np.random.default_rng(3).standard_normal(dimension).astype(np.float32)
    start = time.perf_counter()
    table = pyarrow.dataset.dataset(dataset.snapshot_uris()).to_table(columns=["embedding"])
    vectors = matrix(table["embedding"], dimension)
    read = time.perf_counter() - start
    start = time.perf_counter()
    np.argpartition(-(unit_rows(vectors) @ query), 10)[:10]
    return {"seconds": read + time.perf_counter() - start, "of_which_reading": read}


def publish(dataset, media, dimension):
    start = time.perf_counter()
    [table] = publish_lance(dataset, f"{dataset.root}/lance")
    taken = time.perf_counter() - start
    return {"seconds": taken, "mb_s": table.rows * dimension * 4 / 1e6 / taken}


def publish_one_changed(dataset, media, dimension):
    dataset.write(make(media // 2, dimension, seed=2))
    dataset.compact()
    start = time.perf_counter()
    [table] = publish_lance(dataset, f"{dataset.root}/lance")
    return {"seconds": time.perf_counter() - start, "replaced": table.replaced}


def publish_unchanged(dataset, media, dimension):
    start = time.perf_counter()
    publish_lance(dataset, f"{dataset.root}/lance")
    return {"seconds": time.perf_counter() - start}


PHASES = [imports, fill, compact, compact_unchanged, compact_one_changed, read, search, plain_numpy]
PUBLISH_PHASES = [publish, publish_one_changed, publish_unchanged]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--folder", default=None, help="where the dataset is made; needs twice its size")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    options = parser.parse_args()
    media = options.segments // PER_MEDIA
    if options.phase:
        work = next(phase for phase in PHASES + PUBLISH_PHASES if phase.__name__ == options.phase)
        figures = work(EmbeddingDataset(options.folder), media, options.dimension)
        print(json.dumps({**figures, "peak_mb": memory_mb()}))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        baseline = 0.0
        for phase in PHASES + (PUBLISH_PHASES if importlib.util.find_spec("lancedb") else []):
            command = [sys.executable, str(Path(__file__)), "--phase", phase.__name__, "--folder", folder]
            command += ["--segments", str(options.segments), "--dimension", str(options.dimension)]
            figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            baseline = baseline or figures["peak_mb"]
            figures["peak_mb_beyond_imports"] = figures["peak_mb"] - baseline
            print(
                f"{phase.__name__:22}", "  ".join(f"{name} {value:.3g}" for name, value in figures.items()), flush=True
            )


if __name__ == "__main__":
    main()
