"""Writing of the sample library: painting, encoding, and files that appear whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from embed_pipeline.errors import MediaError
from embed_pipeline.media.samples.recipes import BROKEN_SAMPLE, SAMPLES, Sample
from embed_pipeline.media.store import describe_error

if TYPE_CHECKING:
    from types import ModuleType

    from av import AudioStream, VideoStream
    from av.container import OutputContainer

# Long past, so that a listing doesn't take the files for ones that are still being copied.
_WRITTEN_AT: Final = 1_700_000_000

_SOUND_RATE: Final = 16_000

# By ending: the container, and the encoders of picture and sound.
_FORMATS: Final = {
    ".mp4": ("mp4", "libx264", "aac"),
    ".mov": ("mov", "libx264", "aac"),
    ".mkv": ("matroska", "libx264", "libopus"),
    ".webm": ("webm", "libvpx", "libopus"),
    ".wav": ("wav", "", "pcm_s16le"),
    ".mp3": ("mp3", "", "libmp3lame"),
    ".m4a": ("ipod", "", "aac"),
    ".flac": ("flac", "", "flac"),
    ".ogg": ("ogg", "", "libopus"),
}


def write_sample_library(
    folder: str | PathLike[str], *, progress: Callable[[str, int, int], None] | None = None
) -> list[Path]:
    """Make the sample library: videos with cuts and sound, a shifted copy, sound alone, a long one, a broken one.

    What is there already stays as it is, so a second call is quick and changes no fingerprint. The bytes are the same
    each time with the same version of PyAV.

    Args:
        folder: Where to put it; made if it is missing.
        progress: Called before each file with its path within the library, its number from 1, and how many there are;
            and at the end with an empty path.

    Returns:
        The media files, in the order of `SAMPLES`, the broken one last.

    Raises:
        MediaError: If the folder cannot be written to.
    """
    root = Path(folder)
    total = len(SAMPLES) + 1
    paths: list[Path] = []
    try:
        for number, sample in enumerate(SAMPLES, 1):
            if progress is not None:
                progress(sample.name, number, total)
            paths.append(root / sample.name)
            _write_once(paths[-1], lambda path, sample=sample: write_sample(path, sample))  # type: ignore[misc]
            if sample.subtitles:
                _write_once(paths[-1].with_suffix(".srt"), lambda path, sample=sample: _write_subtitles(path, sample))  # type: ignore[misc]
        if progress is not None:
            progress(BROKEN_SAMPLE, total, total)
        paths.append(root / BROKEN_SAMPLE)
        _write_once(paths[-1], _write_broken)
    except OSError as error:
        raise MediaError(
            f"The sample library cannot be written to {str(root)!r}: {describe_error(error)}. Choose another folder."
        ) from error
    if progress is not None:
        progress("", total, total)
    return paths


def write_sample(path: str | PathLike[str], sample: Sample) -> None:
    """Make one file, in the format that the ending of the sample's name stands for.

    Args:
        path: Where to put it; what is there is replaced.
        sample: What is in it.
    """
    container_format, video_codec, audio_codec = _FORMATS[Path(sample.name).suffix]
    with _av().open(os.fspath(path), "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        # Both streams have to be known before the first packet is written.
        picture = _picture_stream(container, video_codec, sample) if sample.shots[0].scene else None
        sound = _sound_stream(container, audio_codec) if sample.shots[0].sound else None
        if picture is not None:
            _write_pictures(container, picture, sample)
        if sound is not None:
            _write_sound(container, sound, sample)


def _picture_stream(container: OutputContainer, codec: str, sample: Sample) -> VideoStream:
    stream = cast("VideoStream", container.add_stream(codec, rate=Fraction(sample.rate)))
    stream.width, stream.height = sample.size
    stream.pix_fmt = "yuv420p"
    stream.gop_size = 2 * sample.rate
    stream.codec_context.thread_count = 1  # the bytes depend on the number of threads
    if codec == "libvpx":
        stream.options = {"crf": str(sample.quality), "b": "400k", "deadline": "realtime", "cpu-used": "8"}
    else:
        # What x264 decides by looking ahead differs from run to run, even with one thread.
        steady = "mbtree=0:weightp=0"
        stream.options = {"crf": str(sample.quality), "preset": "superfast", "x264-params": steady}
    return stream


def _sound_stream(container: OutputContainer, codec: str) -> AudioStream:
    stream = cast("AudioStream", container.add_stream(codec, rate=_SOUND_RATE))
    stream.layout = "mono"
    if not codec.startswith(("pcm", "flac")):
        stream.bit_rate = 32_000
    if codec == "aac":
        stream.options = {"aac_coder": "fast"}  # four times as fast as its default
    return stream


def _write_pictures(container: OutputContainer, stream: VideoStream, sample: Sample) -> None:
    from av.video.reformatter import VideoReformatter

    from embed_pipeline.media.samples.scenes import SCENES

    number, began = 0, -sample.skip_sec
    width, height = sample.size
    enlarge = VideoReformatter()  # one for all pictures: making it takes longer than using it
    for shot in sample.shots:
        scene = SCENES[shot.scene or ""](width // 2, height // 2, shot.seed)
        while (time := number / sample.rate) < began + shot.seconds:
            small = _av().VideoFrame.from_ndarray(scene(time - began), format="rgb24")
            frame = enlarge.reformat(small, width, height, "yuv420p", interpolation="BILINEAR")
            frame.pts, frame.time_base = number, Fraction(1, sample.rate)
            container.mux(stream.encode(frame))
            number += 1
        began += shot.seconds
    container.mux(stream.encode(None))


def _write_sound(container: OutputContainer, stream: AudioStream, sample: Sample) -> None:
    import numpy as np

    from embed_pipeline.media.samples.sounds import SOUNDS

    parts = [SOUNDS[shot.sound or ""](int(shot.seconds * _SOUND_RATE), _SOUND_RATE, shot.seed) for shot in sample.shots]
    samples = (np.concatenate(parts)[int(sample.skip_sec * _SOUND_RATE) :] * 32767).astype(np.int16)
    for start in range(0, len(samples), _SOUND_RATE):
        frame = _av().AudioFrame.from_ndarray(samples[None, start : start + _SOUND_RATE], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = _SOUND_RATE, start, Fraction(1, _SOUND_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _write_once(path: Path, write: Callable[[Path], None]) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, so that no listing sees half a file; of our own, so that two processes can do this at once.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(unfinished)
        os.utime(unfinished, (_WRITTEN_AT, _WRITTEN_AT))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_subtitles(path: Path, sample: Sample) -> None:
    length = (sum(shot.seconds for shot in sample.shots) - sample.skip_sec) / len(sample.subtitles)
    blocks = [
        f"{number + 1}\n{_timecode(number * length)} --> {_timecode((number + 0.9) * length)}\n{line}\n"
        for number, line in enumerate(sample.subtitles)
    ]
    path.write_text("\n".join(blocks), encoding="utf-8")


def _timecode(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"


def _write_broken(path: Path) -> None:
    import numpy as np

    header = bytes.fromhex("0000001866747970") + b"mp42" + bytes(4) + b"mp42isom"
    body = np.random.default_rng(404).integers(0, 256, 200_000, np.uint8).tobytes()
    path.write_bytes(header + (len(body) * 4).to_bytes(4, "big") + b"mdat" + body)


def _av() -> ModuleType:
    import av  # loaded where it is used: it takes a tenth of a second and tens of megabytes

    return av
