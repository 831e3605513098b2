"""The partition key of a media file: its path within the library, encoded so that all of Dagster can carry it."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from embed_pipeline.errors import MediaError

# What cannot stand in a key as it is, apart from the ends and the ellipsis that are dealt with below:
#   %   it introduces the encoding, so it has to be encoded itself for the way back to be clear;
#   ,   separates the keys of a selection in Dagster's UI and on its command line;
#   |   separates the dimensions of a multi-dimensional partition key.
_RESERVED: Final = frozenset("%,|")

# Control characters (Dagster refuses several of them, no terminal shows any), lone surrogates (how Python spells the
# bytes of a file name that is not UTF-8; no database or Parquet file takes them) and the two Unicode line ends.
_UNWRITABLE_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})

# These turn around the order in which the characters after them are shown, so that one key could pass for another.
_BIDI_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# Every character that may need encoding is among these, so nearly all names are done after one quick search.
_SUSPECT: Final = re.compile(r"[^\w/ ()\[\]'+=@#&!~;{}$^\-.]|\.\.\.|^[ .]|[ .]$")

_ESCAPES: Final = re.compile(r"(?:%[0-9A-F]{2})+")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def encode_partition_key(path: str) -> str:
    """Return the partition key of a path within the library.

    Encoded, as `%XX` of their UTF-8 bytes, are: `%`, `,`, `|`, control characters, Unicode line ends, bidirectional
    controls, lone surrogates, every third dot in a row (`...` marks a range of partitions in Dagster), and white space
    or a dot at either end (the UI trims the one; the other would run into the dots of a range). All else stays
    readable: `Küste, Abend.mp4` becomes `Küste%2C Abend.mp4`.

    Args:
        path: Path within the library, with `/` between folders. Any string will do.

    Returns:
        The key. No two paths share one, and `decode_partition_key` gives the path back.
    """
    if not _SUSPECT.search(path):
        return path
    last = len(path) - 1
    encoded: list[str] = []
    dots = 0
    for index, character in enumerate(path):
        dots = dots + 1 if character == "." else 0
        at_an_end = index in (0, last) and (character == "." or character.isspace())
        if dots == 3 or at_an_end or _always_encoded(character):
            encoded.append(_percent(character))
            dots = 0
        else:
            encoded.append(character)
    return "".join(encoded)


def decode_partition_key(key: str) -> str:
    """Return the path that a partition key stands for.

    Args:
        key: A key made by `encode_partition_key`.

    Returns:
        The path within the library.

    Raises:
        MediaError: If no path has this key; then it was typed or made elsewhere.
    """
    if "%" not in key:
        path = key
    else:
        try:
            path = _ESCAPES.sub(_unpercent, key)
        except UnicodeDecodeError:
            raise MediaError(_not_a_key(key)) from None
    # One file has one key: a second spelling would be a second partition, and be paid for twice.
    if encode_partition_key(path) != key:
        raise MediaError(_not_a_key(key))
    return path


def printable_path(path: str) -> str:
    """Return a path as text that every encoding takes: bytes of a name that are not UTF-8 become `%XX`.

    For names that are sent or shown, such as that of an upload. Unlike a partition key it has no way back.

    Args:
        path: Path within the library.
    """
    return path if path.isascii() else _SURROGATES.sub(_percent_byte, path)


def _always_encoded(character: str) -> bool:
    return (
        character in _RESERVED
        or character in _BIDI_CONTROLS
        or unicodedata.category(character) in _UNWRITABLE_CATEGORIES
    )


def _percent_byte(match: re.Match[str]) -> str:
    byte = ord(match[0]) - 0xDC00
    return f"%{byte:02X}" if 0x80 <= byte <= 0xFF else _percent(match[0])


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _unpercent(match: re.Match[str]) -> str:
    return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogatepass")


def _not_a_key(key: str) -> str:
    return (
        f"{key!r} is not a partition key of a media library. A key is a path within the library in which '%', ',' and "
        "control characters are percent-encoded; take it from the partition list, or use encode_partition_key(path)."
    )
