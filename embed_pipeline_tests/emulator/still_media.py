"""Images and documents for the tests, made on the spot: healthy ones and ones that nobody should trust."""

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


def pdf(
    pages: list[str | np.ndarray], *, box: str = "0 0 400 300", kids: str | None = None, count: int | None = None
) -> bytes:
    """Write a PDF.

    Args:
        pages: What each shows: lines of text, or a uint8 RGB picture that fills it.
        box: The size of a page, in points.
        kids: What the tree of pages is said to hold, instead of the pages.
        count: How many pages there are said to be.
    """
    objects: list[bytes] = [b"", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    numbers = []
    for page in pages:
        resources = b"/Font << /F 3 0 R >>"
        if isinstance(page, str):
            lines = "".join(f"({line}) Tj 0 -14 Td " for line in page.splitlines())
            content = f"BT /F 12 Tf 20 270 Td {lines}ET".encode()
        else:
            height, width = page.shape[:2]
            data = zlib.compress(page.tobytes())
            head = (
                f"<< /Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceRGB"
                f" /BitsPerComponent 8 /Filter /FlateDecode /Length {len(data)} >>"
            )
            objects.append(head.encode() + b"\nstream\n" + data + b"\nendstream")
            resources = f"/XObject << /P {len(objects)} 0 R >>".encode()
            content = b"q 400 0 0 300 0 0 cm /P Do Q"
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Contents %d 0 R /Resources << %s >> >>"
            % (box.encode(), len(objects), resources)
        )
        numbers.append(len(objects))
    objects[0] = b"<< /Type /Catalog /Pages 2 0 R >>"
    held = kids if kids is not None else " ".join(f"{number} 0 R" for number in numbers)
    objects[1] = f"<< /Type /Pages /Kids [{held}] /Count {len(pages) if count is None else count} >>".encode()
    body, places = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n"
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + (head + table + trailer).encode()


def pdf_that_draws_itself() -> bytes:
    """A PDF of a few hundred bytes whose only page draws a form that draws itself twice; it has no table of places."""
    return b"""%PDF-1.7
1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj
2 0 obj << /Type /Pages /Kids [3 0 R] /Count 1 >> endobj
3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R
  /Resources << /XObject << /P 5 0 R >> >> >> endobj
4 0 obj << /Length 5 >> stream
/P Do
endstream endobj
5 0 obj << /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /P 5 0 R >> >> /Length 11 >> stream
/P Do /P Do
endstream endobj
trailer << /Size 6 /Root 1 0 R >>
%%EOF
"""


def healthy_stills(folder: Path) -> list[Path]:
    """Write one image of each format, a PDF with a picture and words, and a text."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = pictures(SCENES[0], 0.1)[0]
    images = [write_image(folder / f"a.{ending}", picture) for ending in ("png", "jpg", "webp")]
    document, text = folder / "a.pdf", folder / "a.txt"
    document.write_bytes(pdf(["One. Two.", picture]))
    text.write_text("One sentence. Another sentence, which is longer. " * 40)
    return [document, *images, text]


def hostile_stills(folder: Path) -> list[Path]:
    """Write images and documents that are made to harm whoever opens them."""
    folder.mkdir(parents=True, exist_ok=True)
    healthy = pdf(["One line", np.full((30, 40, 3), 200, np.uint8)])
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
        "truncated.pdf": healthy[: len(healthy) // 2],
        "noise.pdf": b"%PDF-1.7\n" + np.random.default_rng(3).bytes(5000),
        "head only.pdf": b"%PDF-1.7",
        "cyclic.pdf": pdf(["page"], kids="2 0 R"),
        "cyclic beside a page.pdf": pdf(["page"], kids="2 0 R 5 0 R", count=2),
        "huge page.pdf": pdf(["page"], box="0 0 1000000000 1000000000"),
        "thin page.pdf": pdf(["page"], box="0 0 1000000000 0.001"),
        "no page.pdf": pdf(["page"], box="0 0 0 0"),
        "not a number.pdf": pdf(["page"], box="0 0 nan inf"),
        "many pages.pdf": pdf(["page"], count=10**9),
        "negative.pdf": pdf(["page"], count=-5),
        "itself.pdf": pdf_that_draws_itself(),
        "zeros.txt": bytes(5000),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]
