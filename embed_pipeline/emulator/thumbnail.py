"""A thumbnail: one picture of a video or an image as a JPEG, made in a child process with limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_MAKE_SEC = 30.0
_LONGEST_SIDE = 640
_PIXELS = 100_000_000
_MEMORY = 2 << 30


def make_thumbnail(source: Path, target: Path) -> bool:
    """Make a thumbnail.

    Args:
        source: A video or an image; it may be hostile.
        target: Where the JPEG goes.

    Returns:
        Whether there is one now: not if no picture could be decoded within half a minute.
    """
    part = target.with_name(f"{target.name}.part")
    command = [sys.executable, "-m", "embed_pipeline.emulator.thumbnail", str(source), str(part)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_MAKE_SEC, check=False)  # noqa: S603
        if done.returncode != 0 or not part.exists():
            return False
        part.replace(target)
    except (subprocess.TimeoutExpired, OSError):
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def _make(source: str, target: str) -> None:
    import av

    with av.open(source, options={"max_pixels": str(_PIXELS)}) as container:
        stream = container.streams.video[0]
        # A tenth into the film there is more to see than in its first picture, which is often black.
        if container.duration:
            container.seek(container.duration // 10)
        frame = next(iter(container.decode(stream)))
        scale = min(1.0, _LONGEST_SIDE / max(frame.width, frame.height))
        width, height = (max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height))
        small = frame.reformat(width, height, "yuvj420p")
    with av.open(target, "w", format="mjpeg") as picture:
        output = picture.add_stream("mjpeg", rate=1)
        output.width, output.height, output.pix_fmt = width, height, "yuvj420p"
        small.pts = 0
        picture.mux([*output.encode(small), *output.encode()])


if __name__ == "__main__":
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    _make(*sys.argv[1:3])
