"""A library end to end: the pipeline with all its records, beside a script on the official SDK without orchestration.

Run it with `python benchmarks/end_to_end.py --sdk DIR` for 30 ten-minute videos; the figures that are quoted come from
`--files 1000`. DIR is a folder made by `pip install --target DIR twelvelabs==1.3.6`; without it only the pipeline runs.

Both talk to emulators of one kind, each in a process of its own with the instant engine, which answers at once with the
segments of ten minutes; what differs is what happens on this side. The script is `official_sdk_script.py` beside
this file: asyncio, eight files at once, a pandas frame and a Parquet file for each. The pipeline discovers, submits,
collects and writes through its own sensors and jobs, in this process, on SQLite.
"""

from __future__ import annotations

import argparse
import logging
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import av
from stores import stores_in

from embed_pipeline import (
    Blueprint,
    EmbedClientResource,
    EmbeddingStoreResource,
    MediaLibraryResource,
    PipelinePolicy,
    build_definitions,
)
from embed_pipeline.commands.platform import emulator_process
from embed_pipeline.dataset import EmbeddingDataset
from embed_pipeline.ledger import MediaState
from embed_pipeline.orchestration.daemon import InProcessDaemon

_MEDIA_SEC = 600.0


def write_videos(folder: Path, count: int) -> None:
    """Write small videos, each with content of its own; the emulator takes them for ten minutes long."""
    folder.mkdir(parents=True)
    first = folder / "video-000000.mp4"
    with av.open(str(first), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height = 640, 360
        for number in range(12):
            frame = av.VideoFrame(640, 360, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([20 * number]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = first.read_bytes()
    for number in range(1, count):
        # A box that players skip makes each file a content of its own.
        (folder / f"video-{number:06}.mp4").write_bytes(content + struct.pack(">I4sI", 12, b"free", number))


def run_pipeline(folder: Path, media: Path, files: int) -> tuple[float, int]:
    """Run discovery, submission and collection until everything is embedded; return the seconds and the segments."""
    with (
        stores_in(folder, postgres=False) as stores,
        stores.instance() as instance,
        emulator_process(
            state=folder / "emulator", media_root=media, engine="instant", instant_duration_sec=_MEDIA_SEC
        ) as url,
    ):
        blueprint = Blueprint(
            client=EmbedClientResource(base_url=url),
            library=MediaLibraryResource(location=str(media), settle_sec=0, cache=str(folder / "fingerprints.sqlite")),
            store=EmbeddingStoreResource(root=str(folder / "embeddings")),
            policy=PipelinePolicy(submit_automatically=True, new_files_per_tick=files, tick_budget_sec=600),
        )
        begin = time.perf_counter()
        daemon = InProcessDaemon(build_definitions(blueprint), instance, blueprint.names)
        while True:
            ticks = daemon.discover(), daemon.collect_ready()
            with blueprint.pipeline(connect=False) as pipeline:
                states = Counter(pipeline.ledger.states(pipeline.target).values())
            if not any(tick.runs for tick in ticks) and not states[MediaState.PROCESSING]:
                break
        wall = time.perf_counter() - begin
        assert states == {MediaState.EMBEDDED: files}, states
        with blueprint.pipeline(connect=False) as pipeline:
            segments = sum(row.segments or 0 for row in pipeline.ledger.all_rows(pipeline.target))
    assert len(list(EmbeddingDataset(str(folder / "embeddings")).segment_files())) == files
    return wall, segments


def run_script(folder: Path, media: Path, sdk: Path) -> tuple[float, int, float]:
    folder.mkdir(parents=True)
    with emulator_process(
        state=folder / "emulator", media_root=media, engine="instant", instant_duration_sec=_MEDIA_SEC
    ) as url:
        script = Path(__file__).with_name("official_sdk_script.py")
        done = subprocess.run(
            [sys.executable, str(script), str(media), str(folder / "embeddings"), url],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(sdk), "PATH": "/usr/bin:/bin"},
        )
    seconds, rows, peak = done.stdout.split()
    return float(seconds), int(rows), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=30, help="ten-minute videos (30)")
    parser.add_argument("--sdk", type=Path, help="the folder that holds the official SDK")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as root:
        media = Path(root) / "media"
        write_videos(media, arguments.files)
        print(f"{arguments.files} videos of ten minutes")
        wall, rows = run_pipeline(Path(root) / "pipeline", media, arguments.files)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        _report("the pipeline, discovery to Parquet", wall, rows, arguments.files, peak)
        if arguments.sdk:
            wall, rows, peak = run_script(Path(root) / "script", media, arguments.sdk)
            _report("a script on the official SDK", wall, rows, arguments.files, peak)


def _report(name: str, wall: float, rows: int, files: int, peak: float) -> None:
    print(f"{name:36}{wall:9.1f} s{1000 * wall / files:9.0f} ms a file{rows:9} segments{peak:7.0f} MB peak")


if __name__ == "__main__":
    main()
