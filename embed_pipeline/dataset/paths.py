"""Paths below the dataset's root, and file names of partition keys.

A media file's segments are kept in one file, named by this rule::

    segments/space=<space>/settings=<settings digest>/<readable>-<hash>.parquet

`<readable>` is the partition key with `/` written as `~~` and every other character than letters, digits, `.`, `_` and
`-` as `~XX` (the hexadecimal of its UTF-8 bytes), cut at 150 bytes. `<hash>` is the first 16 hexadecimal digits of the
BLAKE2b hash of the whole key. So a name is always below the 255 bytes that file systems allow, never leaves its folder,
never looks hidden to a reader (`.` and `_` are escaped at the start), never looks like a hive partition, and two keys
that differ in case only do not collide. A name that was not cut can be turned back into its key: the hash proves it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from embed_pipeline.errors import DatasetError

SEGMENTS = "segments"
SUFFIX = ".parquet"
_READABLE_BYTES = 150
_HASH_DIGITS = 16
_ESCAPED = re.compile(r"~~|~([0-9A-F]{2})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(field: str, name: str) -> str:
    """Return `name` if it is safe as a part of a path (letters, digits, `.`, `_`, `-`; at most 100 characters).

    Args:
        field: The field that has this name, for the error.
        name: The name.

    Raises:
        DatasetError: It is not safe.
    """
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"{field} {name!r} cannot be part of a path: use up to 100 letters, digits, '.', '_' or '-', "
            "beginning with a letter or a digit."
        )
    return name


def segment_folder(space: str, settings_digest: str) -> str:
    """Return the folder, relative to the root, that holds the files of one space and settings."""
    return f"{SEGMENTS}/space={check_name('space', space)}/settings={check_name('settings_digest', settings_digest)}"


def segment_path(media: str, space: str, settings_digest: str) -> str:
    """Return the path, relative to the root, of the file that holds one media file's segments."""
    return f"{segment_folder(space, settings_digest)}/{file_name(media)}"


def file_name(media: str) -> str:
    """Return the file name of a partition key.

    Raises:
        DatasetError: The key is empty or no valid Unicode.
    """
    if not media:
        raise DatasetError("A partition key must not be empty.")
    try:
        digest = _digest(media)
    except UnicodeEncodeError:
        raise DatasetError(f"The partition key {media!r} is no valid Unicode; rename the media file.") from None
    composed = unicodedata.normalize("NFC", media) == media
    pieces: list[str] = []
    size = 0
    for position, character in enumerate(media):
        piece = _piece(character, first=position == 0, composed=composed)
        size += len(piece.encode())
        if size > _READABLE_BYTES:
            break
        pieces.append(piece)
    return f"{''.join(pieces)}-{digest}{SUFFIX}"


def media_of(name: str) -> str | None:
    """Turn a file name back into its partition key.

    Args:
        name: A file name without its folder.

    Returns:
        The key, or None where the name was cut or is not of the dataset: the file's metadata has the key.
    """
    # Some file systems hand names back decomposed.
    stem = unicodedata.normalize("NFC", name).removesuffix(SUFFIX)
    readable, _, digest = stem.rpartition("-")
    raw = b""
    end = 0
    for match in _ESCAPED.finditer(readable):
        raw += readable[end : match.start()].encode()
        raw += bytes.fromhex(match[1]) if match[1] else b"/"
        end = match.end()
    raw += readable[end:].encode()
    try:
        media = raw.decode()
    except UnicodeDecodeError:
        return None
    return media if media and _digest(media) == digest else None


def partition_values(path: str) -> tuple[str, str] | None:
    """Read space and settings digest from a path below the root, or None where it is not a file of segments."""
    parts = path.split("/")
    if len(parts) != 4 or parts[0] != SEGMENTS or not parts[3].endswith(SUFFIX) or parts[3].startswith((".", "_")):
        return None
    if not (parts[1].startswith("space=") and parts[2].startswith("settings=")):
        return None
    return parts[1].removeprefix("space="), parts[2].removeprefix("settings=")


def _digest(media: str) -> str:
    return hashlib.blake2b(media.encode(), digest_size=_HASH_DIGITS // 2).hexdigest()


def _piece(character: str, *, first: bool, composed: bool) -> str:
    if character == "/":
        return "~~"
    if character.isalnum() and (character.isascii() or composed):
        return character
    if character in "._-" and not first:
        return character
    return "".join(f"~{byte:02X}" for byte in character.encode())
