"""How much memory an engine needs for a long recording: four hours, made on the spot.

    python benchmarks/engine_memory.py [--hours 4] [--engine signal] [--size 320x180]

A minute of film is encoded once and its packets are repeated, so that the file is there in seconds. Each measurement
runs in a process of its own; memory is the peak resident set, so it includes Python, numpy and the decoder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
from engine_speed import make_film

CHILD = """
import resource, sys, time
from pathlib import Path
from embed_pipeline.emulator.engine import Dynamic, EmbedRequest, EngineLimits, embed
began = time.perf_counter()
request = EmbedRequest("video", ("visual", "audio"), ("clip", "asset"), segmentation=Dynamic(4.0))
limits = EngineLimits(duration_sec=1e6)
result = embed(Path(sys.argv[1]), request, engine=sys.argv[2], limits=limits)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{result.duration_sec:.0f} s of media, {len(result.vectors)} rows, "
      f"{time.perf_counter() - began:.0f} s, {peak:.0f} MB peak")
"""


def make_long(path: Path, minute: Path, minutes: int) -> Path:
    """A minute of film, over and over."""
    with av.open(path, "w") as out:
        copies = None
        for number in range(minutes):
            with av.open(minute) as source:
                if copies is None:
                    copies = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
                for packet in source.demux():
                    if packet.dts is None:
                        continue
                    shift = int(Fraction(60 * number) / packet.time_base)
                    packet.pts += shift
                    packet.dts += shift
                    packet.stream = copies[packet.stream.index]
                    out.mux(packet)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--engine", default="signal")
    parser.add_argument("--size", default="320x180")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        minute = make_film(Path(folder) / "minute.mp4", width, height)
        for minutes in (1, round(arguments.hours * 60)):
            began = time.perf_counter()
            path = make_long(Path(folder) / f"{minutes}.mkv", minute, minutes)
            made = f"made in {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1e6:.0f} MB"
            command = [sys.executable, "-c", CHILD, str(path), arguments.engine]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), f"({made})")


if __name__ == "__main__":
    main()
