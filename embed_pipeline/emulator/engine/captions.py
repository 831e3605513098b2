"""Subtitles of a media file, as its transcript."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from embed_pipeline.emulator.engine.segments import Span
from embed_pipeline.emulator.engine.stream import Caption

_MAX_BYTES = 8 << 20
_TIMING = re.compile(
    r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})\s*-->\s*(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
)
_MARKUP = re.compile(r"<[^>]{0,200}>|\{[^}]{0,200}\}")


def sidecar_captions(media: Path) -> list[Caption] | None:
    """Return the captions of the `.srt` or `.vtt` file beside a media file with the same stem.

    Args:
        media: The media file.

    Returns:
        The captions in order of time, or None where there is no such file (or it cannot be read as one).
    """
    for suffix in (".srt", ".vtt"):
        sidecar = media.with_suffix(suffix)
        try:
            if sidecar == media or not sidecar.is_file() or sidecar.stat().st_size > _MAX_BYTES:
                continue
            captions = parse_captions(sidecar.read_text("utf-8-sig", "replace"))
        except OSError:
            continue
        if captions:
            return captions
    return None


def parse_captions(text: str) -> list[Caption]:
    """Read SubRip or WebVTT.

    Args:
        text: The file's content. What is not a caption is passed over.
    """
    captions: list[Caption] = []
    for block in re.split(r"\r?\n[ \t]*\r?\n", text):
        lines = block.splitlines()
        for number, line in enumerate(lines):
            if (timing := _TIMING.search(line)) is None:
                continue
            words = clean_caption(" ".join(lines[number + 1 :]))
            start, end = _seconds(*timing.groups()[:4]), _seconds(*timing.groups()[4:])
            if words and end > start:
                captions.append(Caption(start, end, words))
            break
    return sorted(captions, key=lambda caption: (caption.start, caption.end))


def clean_caption(text: str) -> str:
    """Return a caption's words without markup, and without the fields before them in an embedded one."""
    # An embedded caption arrives as an ASS event: ReadOrder,Layer,Style,Name,MarginL,MarginR,MarginV,Effect,Text.
    event = re.match(r"^\d+,\d*,[^,]*,[^,]*,\d*,\d*,\d*,[^,]*,(.*)$", text, re.DOTALL)
    words = event.group(1) if event else text
    return " ".join(_MARKUP.sub(" ", words.replace("\\N", " ").replace("\\n", " ").replace("\\h", " ")).split())


def spoken_in(captions: Iterable[Caption], span: Span) -> str:
    """Return the words of a segment: captions that overlap it by half of their own or of its length.

    Args:
        captions: All captions, in order of time.
        span: The segment.

    Returns:
        The words, or an empty text.
    """
    words = []
    for caption in captions:
        overlap = min(caption.end, span.end) - max(caption.start, span.start)
        if overlap > 0 and overlap >= 0.5 * min(caption.end - caption.start, span.end - span.start):
            words.append(caption.text)
    return " ".join(words)


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
