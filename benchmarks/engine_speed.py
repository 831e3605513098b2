"""How fast an engine is, next to a bare decoder that throws its frames away.

    python benchmarks/engine_speed.py [--engine signal] [--threads N] [--repeat 3] [MEDIA ...]

Without files, a film of 60 s with moving pictures and sound is made at two sizes. Figures are seconds of media per
second of CPU; the best of the repeats counts. All decode picture and sound in the same process with the same number of
threads: the bare decoder throws everything away; the sampler makes the small pictures and the 16 kHz sound that an
engine looks at; the engine embeds them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from embed_pipeline.emulator.engine import Dynamic, EmbedRequest, EngineLimits, load_engine
from embed_pipeline.emulator.engine.features.visual import PICTURES_PER_SEC, SIZE
from embed_pipeline.emulator.engine.segments import THUMB_HEIGHT, THUMB_WIDTH
from embed_pipeline.emulator.engine.signal import Shrink
from embed_pipeline.emulator.engine.stream import Picture, open_media


def make_film(path: Path, width: int, height: int, seconds: int = 60, rate: int = 24) -> Path:
    """Every six seconds another scene of moving, textured pictures; noise and tones to hear."""
    scenes = [f"mandelbrot=size={width}x{height}:rate={rate}:start_scale={0.2 + 0.3 * n}" for n in range(2)]
    scenes += [f"testsrc2=size={width}x{height}:rate={rate}", f"gradients=size={width}x{height}:rate={rate}:seed=3"]
    with av.open(path, "w") as out:
        picture = out.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "23"})
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        picture.thread_type = "AUTO"
        sound = out.add_stream("aac", rate=44_100, layout="mono")
        number, position = 0, 0
        rng = np.random.default_rng(1)
        sources = [av.open(scene, format="lavfi") for scene in scenes]
        readers = [source.decode(video=0) for source in sources]
        grain = rng.integers(0, 24, (height * 2, width), np.uint8)
        while number < seconds * rate:
            image = next(readers[number // (6 * rate) % len(readers)]).to_ndarray(format="yuv420p")
            offset = int(rng.integers(0, height // 2))
            image = np.minimum(image, 255 - 24) + grain[offset : offset + image.shape[0]]
            frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            out.mux(picture.encode(frame))
            number += 1
            while position < number / rate * 44_100:
                time_axis = (position + np.arange(1024)) / 44_100
                wave = 0.3 * np.sin(2 * np.pi * (220 + 40 * (number // 12 % 9)) * time_axis)
                block = (wave + rng.normal(0, 0.05, 1024)).astype(np.float32)[None, :]
                heard = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                heard.sample_rate, heard.pts, heard.time_base = 44_100, position, Fraction(1, 44_100)
                out.mux(sound.encode(heard))
                position += 1024
        out.mux(picture.encode(None))
        out.mux(sound.encode(None))
    return path


def decode_only(path: Path, threads: int) -> float:
    last = 0.0
    with av.open(path) as media:
        streams = [*media.streams.video[:1], *media.streams.audio[:1]]
        for stream in media.streams.video[:1]:
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
        for packet in media.demux(streams):
            for frame in packet.decode():
                last = max(last, frame.time or 0.0)
    return last


def sample_only(path: Path, request: EmbedRequest, limits: EngineLimits) -> None:
    shrink, looked = Shrink(), -1
    with open_media(path, request, limits) as media:
        for part in media.read():
            if isinstance(part, Picture):
                shrink(part.frame, THUMB_WIDTH, THUMB_HEIGHT, "FAST_BILINEAR")
                if int(part.time * PICTURES_PER_SEC) != looked:
                    looked = int(part.time * PICTURES_PER_SEC)
                    shrink(part.frame, SIZE, SIZE)


def measured(action: Callable[[], object], repeat: int) -> tuple[float, float]:
    walls, cpus = [], []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", nargs="*", type=Path)
    parser.add_argument("--engine", default="signal")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        media = arguments.media or [
            make_film(Path(folder) / "640x360.mp4", 640, 360),
            make_film(Path(folder) / "1280x720.mp4", 1280, 720),
        ]
        request = EmbedRequest("video", ("visual", "audio"), ("clip", "asset"), segmentation=Dynamic(4.0))
        limits = EngineLimits(threads=arguments.threads)
        engine = load_engine(arguments.engine)
        print(f"{engine.name}, {arguments.threads} decoding threads, seconds of media per second of CPU")
        print("| media | bare decoder | sampler | of the decoder | engine | of the decoder | engine, wall clock |")
        print("|---|---|---|---|---|---|---|")
        for path in media:
            seconds = decode_only(path, arguments.threads)
            repeat = arguments.repeat
            _, bare = measured(lambda path=path: decode_only(path, arguments.threads), repeat)
            _, sampled = measured(lambda path=path: sample_only(path, request, limits), repeat)
            wall, full = measured(lambda path=path: engine.embed(path, request, limits, lambda _seconds: None), repeat)
            cells = [f"{seconds / bare:.0f}x", f"{seconds / sampled:.0f}x", f"{bare / sampled:.0%}"]
            cells += [f"{seconds / full:.0f}x", f"{bare / full:.0%}", f"{seconds / wall:.0f}x"]
            print(f"| {path.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
