"""From what a request names as its source to a file on this machine."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from pathlib import Path

from embed_pipeline.emulator.refusal import Refusal
from embed_pipeline.emulator.request import AcceptedRequest
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.emulator.sources import SourceError, below_root, fetch, size_failure


def decoded(text: str, limit: int, field: str) -> bytes:
    """Decode a source that came inside a request.

    Args:
        text: Its base64 text; white space in it does not count.
        limit: How many bytes it may have.
        field: The path of the source, for the message.

    Raises:
        Refusal: If it is no base64, empty, or larger than that.
    """
    try:
        media = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(f"{field}.base64_string is not valid base64.", f"{field}.base64_string") from None
    if not media or len(media) > limit:
        message = f"{field}.base64_string must hold from 1 to {limit} bytes once decoded, not {len(media)}."
        raise Refusal(message, f"{field}.base64_string")
    return media


def content_hash(media: bytes) -> str:
    """Return what stands for bytes that have no name."""
    return hashlib.blake2b(media, digest_size=16).hexdigest()


def local_file(
    request: AcceptedRequest,
    *,
    kept: Path,
    settings: EmulatorSettings,
    asset_path: Callable[[str], Path | None],
    limit: int | None = None,
) -> tuple[Path, bool]:
    """Bring the source of a request here.

    Args:
        request: What was asked for.
        kept: Where the bytes of a base64 source lie; what is fetched is put beside it.
        settings: What may be read.
        asset_path: Where the file of an uploaded asset lies, or None if it is not ready.
        limit: How many bytes it may have; None takes what the settings say of its input type.

    Returns:
        The file, and whether it is to be deleted afterwards.

    Raises:
        SourceError: If the source cannot be read, or is too large.
    """
    largest = settings.sizes.of_source(request.input_type) if limit is None else limit
    if request.source_kind == "url" and not request.source.startswith("file:"):
        path = kept.with_name(f"{kept.name}.fetched")
        try:
            fetch(request.source, path, limit=largest, allow_private=settings.allow_private_sources)
        except SourceError:
            path.unlink(missing_ok=True)
            raise
        return path, True
    if request.source_kind == "url":
        try:
            root = settings.media_root
            found = None if root is None else below_root(request.source, root)
        except Refusal as refusal:
            raise SourceError from refusal
    elif request.source_kind == "asset":
        found = asset_path(request.source)
    else:
        found = kept
    if found is None or not found.is_file():
        raise SourceError
    size = found.stat().st_size
    if size > largest:
        raise size_failure(size, largest)
    return found, False
