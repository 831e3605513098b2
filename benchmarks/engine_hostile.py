"""Feed an engine damaged files and watch that each ends ready or failed, in time and within bounds.

    python benchmarks/engine_hostile.py [--files 1200] [--seed 1] [--engine signal] [--stills] [--keep FOLDER]

Healthy media files of eleven kinds, or with --stills images, are damaged at random (flipped bits,
lying numbers, truncations, splices, ...) and embedded in child processes. Files that cost a child its life, and the
slowest ones, are listed by name; --keep leaves them where you can look at them.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from embed_pipeline.emulator.engine import (
    Dynamic,
    EmbedRequest,
    EngineLimits,
    EngineResult,
    Fixed,
    MediaFailure,
    close_workers,
    embed_isolated,
)
from embed_pipeline_tests.emulator.hostile_media import bombs, healthy, mutate
from embed_pipeline_tests.emulator.still_media import healthy_stills, hostile_stills

_IMAGE = EmbedRequest("image", ("visual",), ("asset",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", default="signal")
    parser.add_argument("--stills", action="store_true", help="images instead of audio and video")
    parser.add_argument("--keep", type=Path, default=None)
    arguments = parser.parse_args()
    limits = EngineLimits(wall_sec=60.0, stall_sec=20.0, memory_bytes=2 << 30)
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        originals = (healthy_stills if arguments.stills else healthy)(folder / "healthy")
        made_to_harm = hostile_stills if arguments.stills else bombs
        contents = [path.read_bytes() for path in originals]

        def one(number: int) -> tuple[str, str, float, str]:
            own = np.random.default_rng([arguments.seed, number])
            chosen = int(own.integers(len(originals)))
            kind, damaged = mutate(contents[chosen], contents[int(own.integers(len(contents)))], own)
            path = folder / f"{number}-{kind}{originals[chosen].suffix}"
            path.write_bytes(damaged)
            return embedded(path, kind)

        def embedded(path: Path, kind: str) -> tuple[str, str, float, str]:
            request = (
                _IMAGE
                if arguments.stills
                else EmbedRequest(
                    "video",
                    ("visual", "audio", "transcription"),
                    ("clip", "asset"),
                    segmentation=Fixed(2.0) if rng.random() < 0.5 else Dynamic(2.0),
                )
            )
            began = time.monotonic()
            try:
                result = embed_isolated(path, request, engine=arguments.engine, limits=limits)
                sound = np.isfinite(result.vectors).all() and (arguments.stills or _in_order(result))
                outcome = "ready" if sound else "ready with unsound rows"
            except MediaFailure as failure:
                outcome = failure.message
                if not failure.permanent:
                    outcome += f" [{failure.detail.splitlines()[-1] if failure.detail else ''}]"
            took = time.monotonic() - began
            if not arguments.keep:
                path.unlink()
            return outcome, kind, took, path.name

        began = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            rows = list(threads.map(one, range(arguments.files)))
            rows += list(threads.map(lambda path: embedded(path, "bomb"), made_to_harm(folder / "bombs")))
        wall = time.monotonic() - began
        close_workers()
    for outcome, count in Counter(outcome for outcome, *_ in rows).most_common():
        print(f"{count:6d}  {outcome}")
    print(
        "slowest:", ", ".join(f"{name} {took:.1f} s" for _, _, took, name in sorted(rows, key=lambda row: -row[2])[:5])
    )
    print("of a child's death or mistake:", [row[3] for row in rows if "[" in row[0]])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{len(rows)} files in {wall:.0f} s, largest child {peak:.0f} MB resident")


def _in_order(result: EngineResult) -> bool:
    return bool((result.end_sec > result.start_sec).all())


if __name__ == "__main__":
    main()
