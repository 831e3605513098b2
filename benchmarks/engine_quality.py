"""Retrieval quality of an engine: does a segment of an altered copy find the segment it was made from?

    python benchmarks/engine_quality.py [--engine signal] [--seconds 120] MEDIA [MEDIA ...]

MEDIA are files, or folders of them. Each file is copied (its first seconds, or those from --start on), altered and
encoded again with real encoders, and both are embedded in windows of four seconds. A query is a segment of an altered
copy; it counts as found (R@1) where its nearest neighbour among all segments of all originals is the one that it
overlaps most. Beside it stand the bounds of that share with 95 % confidence, were the queries independent (Wilson), and
the share of queries whose nearest neighbour overlaps them at all. Chance is one in the number of segments. Cosine
margins are the mean of the right segment's cosine less that of the best wrong one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from embed_pipeline.emulator.engine import EmbedRequest, EngineResult, Fixed, MediaFailure, embed

WINDOW_SEC = 4.0
HEIGHT = 240
MEETING_SEC = 0.1
TICKS = 90_000
ENDINGS = {".mp4", ".m4v", ".mkv", ".webm", ".mov", ".mpg", ".avi", ".wav", ".flac", ".mp3", ".m4a", ".ogg"}


@dataclass(frozen=True)
class Alteration:
    """One way to alter a copy: video and audio filters, where it begins, how well it is encoded."""

    name: str
    video: str = ""
    audio: str = ""
    shift_sec: float = 0.0
    crf: int = 23


VISUAL = [
    Alteration("encoded again"),
    Alteration("shifted 1 s", shift_sec=1.0),
    Alteration("shifted 1.7 s", shift_sec=1.7),
    Alteration("cropped 15 %", "crop=in_w*0.85:in_h*0.85"),
    Alteration("brighter, less contrast", "lutyuv=y=(val-128)*0.8+160"),
    Alteration("darker, more contrast", "lutyuv=y=(val-128)*1.25+100"),
    Alteration("greyscale", "lutyuv=u=128:v=128"),
    Alteration("mirrored", "hflip"),
    Alteration("mirrored and grey", "hflip,lutyuv=u=128:v=128"),
    Alteration("noise", "noise=alls=25:allf=t"),
    Alteration("80 px high, crf 38", "scale=-2:80", crf=38),
    Alteration("letterbox", "pad=iw:ih*1.3:0:(oh-ih)/2"),
]
AUDIO = [
    Alteration("encoded again"),
    Alteration("shifted 0.5 s", shift_sec=0.5),
    Alteration("shifted 1.5 s", shift_sec=1.5),
    Alteration("white noise, 20 dB"),
    Alteration("white noise, 10 dB"),
    Alteration("pink noise, 10 dB"),
    Alteration("gain -12 dB", audio="volume=-12dB"),
    Alteration("low-pass 3.4 kHz", audio="lowpass=f=3400,lowpass=f=3400"),
    Alteration("echo", audio="aecho=0.8:0.9:60|90:0.4|0.3"),
]


def graph_of(stream, filters: str, last: str):
    graph = av.filter.Graph()
    is_video = stream.type == "video"
    source = graph.add_buffer(template=stream) if is_video else graph.add_abuffer(template=stream)
    steps = [step for step in [*filters.split(","), *last.split(",")] if step]
    node = source
    for step in steps:
        name, _, arguments = step.partition("=")
        following = graph.add(name, arguments or None)
        node.link_to(following)
        node = following
    sink = graph.add("buffersink" if is_video else "abuffersink")
    node.link_to(sink)
    graph.configure()
    return graph


def pulled(graph, frame):
    graph.push(frame)
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def alter_video(source: Path, target: Path, how: Alteration, start: float, seconds: float) -> None:
    with av.open(source) as media, av.open(target, "w") as copy:
        stream = media.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate
        tidy = f"scale=-2:{HEIGHT},format=yuv420p" if "scale" not in how.video else "format=yuv420p"
        graph, out, last = graph_of(stream, how.video, tidy), None, -1
        begin = start + how.shift_sec
        media.seek(int(begin * 1e6))
        for frame in media.decode(stream):
            if frame.time < begin:
                continue
            if frame.time >= start + seconds:
                break
            for altered in pulled(graph, frame):
                if out is None:
                    out = copy.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": str(how.crf)})
                    out.width, out.height, out.pix_fmt = altered.width // 2 * 2, altered.height // 2 * 2, "yuv420p"
                    out.codec_context.time_base = Fraction(1, TICKS)
                altered.pts, altered.time_base = max(last + 1, round((frame.time - begin) * TICKS)), Fraction(1, TICKS)
                last = altered.pts
                copy.mux(out.encode(altered))
        if out is not None:
            copy.mux(out.encode(None))


def samples_of(source: Path, filters: str, start: float, seconds: float) -> np.ndarray:
    with av.open(source) as media:
        stream = media.streams.audio[0]
        graph = graph_of(stream, filters, "aresample=32000,aformat=sample_fmts=flt:channel_layouts=mono")
        media.seek(int(start * 1e6))
        parts = []
        for frame in media.decode(stream):
            if frame.time + frame.samples / frame.sample_rate < start:
                continue
            if frame.time >= start + seconds:
                break
            parts += [altered.to_ndarray()[0] for altered in pulled(graph, frame)]
    return np.concatenate(parts)


def add_noise(samples: np.ndarray, name: str) -> np.ndarray:
    white = np.random.default_rng(7).standard_normal(len(samples))
    if name.startswith("pink"):
        spectrum = np.fft.rfft(white)
        white = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1.0), len(samples))
    ratio = 10 ** (float(name.split()[-2]) / 10)
    return samples + white * np.sqrt((samples**2).mean() / ratio / (white**2).mean())


def alter_audio(source: Path, target: Path, how: Alteration, start: float, seconds: float) -> None:
    samples = samples_of(source, how.audio, start + how.shift_sec, seconds - how.shift_sec)
    if "noise" in how.name:
        samples = add_noise(samples, how.name)
    with av.open(target, "w") as copy:
        out = copy.add_stream("aac", rate=32000, layout="mono", options={"b": "96k"})
        for position in range(0, len(samples), 1024):
            block = np.clip(samples[position : position + 1024], -1, 1).astype(np.float32)[None, :]
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 32000, position
            copy.mux(out.encode(frame))
        copy.mux(out.encode(None))


def files_of(media: list[Path]) -> list[Path]:
    found = [sorted(place.rglob("*")) if place.is_dir() else [place] for place in media]
    return [path for paths in found for path in paths if path.suffix.lower() in ENDINGS]


def overlap(start: float, end: float, result: EngineResult) -> np.ndarray:
    """How many seconds of a span each segment of a result shares; below zero it is their distance."""
    return np.minimum(end, result.end_sec) - np.maximum(start, result.start_sec)


def wilson(found: int, made: int) -> tuple[float, float]:
    share, z = found / made, 1.96
    centre, spread = share + z * z / (2 * made), z * ((share * (1 - share) + z * z / (4 * made)) / made) ** 0.5
    return (centre - spread) / (1 + z * z / made), (centre + spread) / (1 + z * z / made)


def run(option: str, alterations: list[Alteration], arguments: argparse.Namespace, folder: Path) -> None:
    request = EmbedRequest(
        media_type="video" if option == "visual" else "audio",
        options=(option,),
        scopes=("clip",),
        segmentation=Fixed(WINDOW_SEC),
    )
    gallery: list[EngineResult] = []
    queries: dict[str, list[tuple[int, EngineResult, float]]] = defaultdict(list)
    for source in files_of(arguments.media):
        make = alter_video if option == "visual" else alter_audio
        window = replace(request, start_sec=arguments.start or None, end_sec=arguments.start + arguments.seconds)
        try:
            original = embed(source, window, engine=arguments.engine)
        except MediaFailure as failure:
            print(f"{source.name}: {failure.message} ({failure.detail})")
            continue
        if option in original.missing or original.end_sec.max() - arguments.start < arguments.least:
            continue
        for how in alterations:
            target = folder / f"{option}.{'mp4' if option == 'visual' else 'm4a'}"
            make(source, target, how, arguments.start, arguments.seconds)
            queries[how.name].append((len(gallery), embed(target, request, engine=arguments.engine), how.shift_sec))
        gallery.append(original)
    if not gallery:
        return
    vectors = np.concatenate([result.vectors for result in gallery])
    offsets = np.cumsum([0, *[len(result.vectors) for result in gallery]])
    cosines = vectors @ vectors.T
    print(f"\n{option}: {len(vectors)} segments of {len(gallery)} files, median cosine of two {np.median(cosines):.2f}")
    print("| alteration | found | R@1 | 95 % | overlaps | margin |\n|---|---|---|---|---|---|")
    for name, made in queries.items():
        found, overlapping, margins = [], [], []
        for number, result, shift in made:
            own = range(offsets[number], offsets[number + 1])
            for vector, start, end in zip(result.vectors, result.start_sec, result.end_sec, strict=True):
                if end - start < WINDOW_SEC / 2:
                    continue
                begin = arguments.start + shift
                overlaps = overlap(begin + start, begin + end, gallery[number])
                right = own[int(np.argmax(overlaps))]
                scores = vectors @ vector
                nearest = int(np.argmax(scores))
                others = np.delete(scores, right)
                found.append(scores[right] > others.max(initial=-1.0))
                overlapping.append(nearest in own and overlaps[nearest - offsets[number]] > MEETING_SEC)
                margins.append(scores[right] - others.max(initial=-1.0))
        low, high = wilson(sum(found), len(found))
        print(
            f"| {name} | {sum(found)} of {len(found)} | {np.mean(found):.2f} | {low:.2f} to {high:.2f} |"
            f" {np.mean(overlapping):.2f} | {np.mean(margins):+.3f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", nargs="+", type=Path)
    parser.add_argument("--engine", default="signal")
    parser.add_argument("--start", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--least", type=float, default=0.0, help="pass over files shorter than this, in seconds")
    parser.add_argument("--option", choices=["visual", "audio"], action="append")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for option, alterations in (("visual", VISUAL), ("audio", AUDIO)):
            if not arguments.option or option in arguments.option:
                run(option, alterations, arguments, Path(folder))


if __name__ == "__main__":
    main()
