"""Images for the tests, made on the spot: healthy ones and hostile ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import av
import numpy as np

from embed_pipeline_tests.emulator.engine_media import SCENES, pictures

PIXEL_FORMATS = {"png": ("png", "rgb24"), "jpg": ("mjpeg", "yuvj420p"), "webp": ("libwebp", "yuv420p")}


def write_image(path: Path, picture: np.ndarray) -> Path:
    """Write a uint8 RGB picture; the ending of the name decides the format."""
    codec, pixels = PIXEL_FORMATS[path.suffix[1:]]
    with av.open(str(path), "w", format="webp" if codec == "libwebp" else "image2") as container:
        stream = container.add_stream(codec, rate=1)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = pixels
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return path


def png_of_nothing(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that takes three bytes for every pixel once it is decoded."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(3 * width + 1)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", data) + piece(b"IEND", b"")


def healthy_stills(folder: Path) -> list[Path]:
    """Write one image of each format."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = pictures(SCENES[0], 0.1)[0]
    return [write_image(folder / f"a.{ending}", picture) for ending in ("png", "jpg", "webp")]


def hostile_stills(folder: Path) -> list[Path]:
    """Write images that are made to harm whoever opens them."""
    folder.mkdir(parents=True, exist_ok=True)
    png = write_image(folder / "healthy.png", pictures(SCENES[0], 0.1)[0]).read_bytes()
    header = bytearray(png)
    header[16:24] = b"\x00\x0f\x42\x40" * 2
    files = {
        "bomb.png": png_of_nothing(11_000, 10_000),
        "lying header.png": bytes(header),
        "truncated.png": png[: len(png) // 2],
        "no picture.png": png[:33],
        "noise.jpg": b"\xff\xd8\xff" + np.random.default_rng(1).bytes(5000),
        "noise.webp": b"RIFF\x00\x10\x00\x00WEBP" + np.random.default_rng(2).bytes(5000),
        "empty.png": b"",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]
