"""What a careful user of the official SDK would write: embed a folder of videos and keep the vectors as Parquet.

Needs `twelvelabs` and `pandas` alone; `end_to_end.py` runs it as `official_sdk_script.py MEDIA OUTPUT URL`. It makes
a task for each file, polls it, puts the segments into a pandas frame with float32 vectors and writes one Parquet file,
with eight files under way at once. It keeps no record: run twice, it pays twice.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from twelvelabs import AsyncTwelveLabs
from twelvelabs.types import (
    AsyncVideoInputRequest,
    MediaSource,
    VideoSegmentation_Dynamic,
    VideoSegmentationDynamicDynamic,
)

_AT_ONCE = 8


async def embed(client: AsyncTwelveLabs, path: Path, output: Path, turns: asyncio.Semaphore) -> int:
    """Embed one file; how many segments it has."""
    async with turns:
        task = await client.embed.v_2.tasks.create(
            input_type="video",
            model_name="marengo3.0",
            video=AsyncVideoInputRequest(
                media_source=MediaSource(url=path.as_uri()),
                embedding_option=["visual", "audio", "transcription"],
                embedding_scope=["clip", "asset"],
                embedding_type=["separate_embedding"],
                segmentation=VideoSegmentation_Dynamic(dynamic=VideoSegmentationDynamicDynamic(min_duration_sec=4)),
            ),
        )
        pause = 0.05
        while (result := await client.embed.v_2.tasks.retrieve(task.id)).status == "processing":
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 5.0)
        if result.status != "ready":
            raise RuntimeError(f"{path.name}: {result.status}")
        # Writing is blocking work; a thread keeps the other files going.
        return await asyncio.to_thread(write, path, output, task.id, result.data)


def write(path: Path, output: Path, task_id: str, segments: list) -> int:
    frame = pd.DataFrame(
        {
            "media": path.name,
            "task_id": task_id,
            "embedding_option": [segment.embedding_option for segment in segments],
            "embedding_scope": [segment.embedding_scope for segment in segments],
            "start_sec": [segment.start_sec for segment in segments],
            "end_sec": [segment.end_sec for segment in segments],
            "embedding": [np.asarray(segment.embedding, np.float32) for segment in segments],
        }
    )
    frame.to_parquet(output / f"{path.stem}.parquet")
    return len(frame)


def peak_mb() -> float:
    """The most memory this program held; getrusage would tell the parent's, which a child inherits."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


async def main() -> None:
    media, output, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    output.mkdir(parents=True, exist_ok=True)
    client = AsyncTwelveLabs(api_key="emulator", base_url=url)
    turns = asyncio.Semaphore(_AT_ONCE)
    begin = time.perf_counter()
    counts = await asyncio.gather(*(embed(client, path, output, turns) for path in sorted(media.glob("*.mp4"))))
    wall = time.perf_counter() - begin
    print(wall, sum(counts), peak_mb())


asyncio.run(main())
