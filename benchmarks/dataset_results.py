"""Listing of a dataset's results and its files, in files a second, against bare footers and a bare listing.

Run: python benchmarks/dataset_results.py [--files 20000] [--folder FOLDER]
Files of nine segments of 64 dimensions; 100,000 of them take 1.2 GB. They are written without the sync of a real write.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from embed_pipeline.dataset import EmbeddingDataset, StoredResult
from embed_pipeline.dataset.codec import encode
from embed_pipeline.dataset.paths import file_name, segment_folder
from embed_pipeline_tests.dataset.values import DIGEST, make_segments


def rate(name, files, work):
    start, busy = time.perf_counter(), time.process_time()
    count = work()
    taken, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    per_file = busy / files * 1e6
    print(f"{name:26} {files / taken:8.0f} files/s {per_file:7.0f} us processor/file   peak {peak:4.0f} MB", flush=True)
    assert count == files, (name, count)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--folder", default=None, help="where the dataset is made")
    options = parser.parse_args()
    files = options.files
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        dataset = EmbeddingDataset(folder)
        place = Path(folder) / segment_folder("marengo3.0-64", DIGEST)
        place.mkdir(parents=True)

        def fill():
            for number in range(files):
                segments = make_segments(f"library/{number:07}.mp4", dimension=64)
                (place / file_name(segments.media)).write_bytes(encode(segments.to_arrow(), dataset.encoding))
            return files

        def footers():
            return sum(pq.read_metadata(path).num_rows == 9 for path in place.iterdir())

        rate("written", files, fill)
        rate("bare footers, pyarrow", files, footers)
        rate("segment_files()", files, lambda: sum(1 for _ in dataset.segment_files()))
        for concurrency in (1, 8):
            rate(
                f"results(concurrency={concurrency})",
                files,
                lambda concurrency=concurrency: sum(
                    isinstance(result, StoredResult) for result in dataset.results(concurrency=concurrency)
                ),
            )
        paths = [file.path for file in dataset.segment_files()][: files // 10]
        rate("check(path)", len(paths), lambda: sum(dataset.check(path) is None for path in paths))
        rate(
            "check(path, deep=True)", len(paths), lambda: sum(dataset.check(path, deep=True) is None for path in paths)
        )


if __name__ == "__main__":
    main()
