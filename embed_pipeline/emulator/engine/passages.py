"""Taking a text apart: sentences, chunks of sentences, and passages short enough for an engine to take in at once."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise

import numpy as np

from embed_pipeline.emulator.engine.failure import UNPROCESSABLE, MediaFailure
from embed_pipeline.emulator.engine.projection import unit
from embed_pipeline.emulator.engine.request import FloatArray, Sentences

_PASSAGE_WORDS = 150
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}
# A sentence ends with its mark (and closing quotes) before a space, with a line that stands for itself (a heading, an
# item of a list), or with an empty line.
_SENTENCE_END = re.compile(
    r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+"
    r"|(?<=[\u3002\uff01\uff1f])"  # Chinese and Japanese put no space there
    r"|\n\s*\n|\n(?=\s*(?:[-*+>#]|\d+[.)])\s)|(?<=\n)(?=#)"
)
_HEADING = re.compile(r"^(#{1,6} [^\n]*)\n", re.MULTILINE)


def is_text(head: bytes) -> bool:
    """Tell whether the beginning of a file looks like text: it has a byte order mark, or no zero bytes."""
    return any(head.startswith(mark) for mark in _BYTE_ORDER_MARKS) or b"\0" not in head


def decode_text(content: bytes, *, whole: bool = True) -> str:
    """Read the bytes of a text file.

    Args:
        content: UTF-8, UTF-16 with a byte order mark, or else taken for Windows-1252.
        whole: Whether these are all of its bytes; if not, they may end in the middle of a character.

    Raises:
        MediaFailure: It is no text, or there is nothing in it.
    """
    if not is_text(content):
        raise MediaFailure(UNPROCESSABLE, detail="the file holds zero bytes: it is no text")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(content, final=whole)
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    if not text.strip():
        raise MediaFailure(UNPROCESSABLE, detail="the text is empty")
    return text


def sentences(text: str) -> Iterator[str]:
    """Divide a text into sentences.

    Headings and items of a list are sentences of their own. Nothing but white space is lost.

    Args:
        text: Any text.

    Yields:
        The sentences in order, none of them empty, without white space at their ends.
    """
    text = _HEADING.sub(r"\1\n\n", text.replace("\r\n", "\n"))
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if sentence := text[start : end.end()].strip():
            yield sentence
        start = end.end()
    if sentence := text[start:].strip():
        yield sentence


def chunks(parts: Iterable[str], division: Sentences) -> Iterator[str]:
    """Group sentences into chunks.

    Args:
        parts: The sentences in order.
        division: How many there are in a chunk, and how many of them the next one repeats.

    Yields:
        The chunks in order; the last one may be shorter, and always holds a sentence that no other does.
    """
    parts = iter(parts)
    held = list(islice(parts, division.max_sentences))
    while held:
        yield " ".join(held)
        fresh = list(islice(parts, division.max_sentences - division.overlap))
        held = [*held[len(held) - division.overlap :], *fresh] if fresh else []


def embed_passages(text: str, read: Callable[[str], FloatArray]) -> FloatArray:
    """One vector for a text of any length.

    Engines take in so many words at once only; a longer text is the mean of its passages by their length. A text of
    one passage has the vector that a transcript of the same words has.

    Args:
        text: Any text.
        read: What embeds a passage.

    Returns:
        float32 of shape (512,), of unit length.
    """
    words = text.split()
    if len(words) <= _PASSAGE_WORDS:
        return read(text)
    count = -(-len(words) // _PASSAGE_WORDS)
    bounds = [round(part * len(words) / count) for part in range(count + 1)]
    vectors = [read(" ".join(words[first:last])) * np.float32(last - first) for first, last in pairwise(bounds)]
    return unit(np.asarray(np.sum(vectors, axis=0), np.float32))
