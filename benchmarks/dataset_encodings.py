"""Size, write and read speed of embedding files by codec, byte-stream-split and row group.

Run: python benchmarks/dataset_encodings.py [--rows 40000] [--dimension 512]
Each line is the best of three, on unit vectors of float32; MB are of raw vectors.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embed_pipeline.dataset import ParquetEncoding, vector_space
from embed_pipeline.dataset.segments import MediaSegments
from embed_pipeline_tests.dataset.values import CREATED_AT, DIGEST


def make_table(rows, dimension):
    """The rows of media files with 500 segments each."""
    random = np.random.default_rng(0)
    tables = []
    for number in range(rows // 500):
        vectors = random.normal(size=(500, dimension)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        media = f"library/{number:06}.mp4"
        segments = MediaSegments(
            media, f"s3://library/{media}", f"sha256:{number}", "video", 3000.0, ["visual"] * 500, ["clip"] * 500,
            np.arange(500) * 6.0, np.arange(500) * 6.0 + 6, vectors, None, "marengo3.0",
            vector_space("marengo3.0", dimension), {}, DIGEST, f"task-{number}", CREATED_AT,
        )  # fmt: skip
        tables.append(segments.to_arrow().replace_schema_metadata(None))
    return pa.concat_tables(tables).combine_chunks()


def best(work, times=3):
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def measure(name, table, raw, options, row_group):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        write = best(lambda: pq.write_table(table, path, row_group_size=row_group, **options))
        read = best(lambda: pq.read_table(path))
        wanted = table["media"][len(table) // 2].as_py()
        one = best(lambda: pq.read_table(path, filters=[("media", "==", wanted)]))
        size = path.stat().st_size
    print(
        f"{name:44} {size / raw:6.3f} {raw / write / 1e6:9.0f} {raw / read / 1e6:9.0f} {one * 1e3:10.1f}",
        flush=True,
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=40_000)
    arguments.add_argument("--dimension", type=int, default=512)
    options = arguments.parse_args()
    table = make_table(options.rows, options.dimension)
    raw = options.rows * options.dimension * 4
    print(f"{'encoding':44} {'size':>6} {'write MB/s':>9} {'read MB/s':>9} {'one media ms':>10}")
    measure("pyarrow's defaults", table, raw, {}, 10_000)
    chosen = ParquetEncoding()
    for name, encoding in {
        "snappy": ParquetEncoding(compression="snappy"),
        "no compression": ParquetEncoding(compression="none"),
        "zstd 1 (ours)": chosen,
        "zstd 3": ParquetEncoding(compression_level=3),
        "zstd 9": ParquetEncoding(compression_level=9),
        "zstd 1, byte-stream-split": ParquetEncoding(byte_stream_split=True),
        "zstd 3, byte-stream-split": ParquetEncoding(byte_stream_split=True, compression_level=3),
        "lz4, byte-stream-split": ParquetEncoding(byte_stream_split=True, compression="lz4"),
        "zstd 1, list layout": ParquetEncoding(layout="list"),
    }.items():
        laid_out = table
        if encoding.layout == "list":
            laid_out = table.cast(
                pa.schema(
                    field.with_type(pa.list_(pa.float32()))
                    if field.name.startswith("embedding") and pa.types.is_fixed_size_list(field.type)
                    else field
                    for field in table.schema
                )
            )
        measure(name, laid_out, raw, encoding.writer_options(), 10_000)
    for row_group in (1_000, 10_000, 100_000):
        measure(f"zstd 1, row groups of {row_group}", table, raw, chosen.writer_options(), row_group)


if __name__ == "__main__":
    main()
