"""The choice of media source for a given file: by which road its bytes reach the platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from embed_pipeline.client.assets import DIRECT_UPLOAD_BYTES
from embed_pipeline.client.errors import InvalidRequestError
from embed_pipeline.client.multipart import MULTIPART_UPLOAD_BYTES
from embed_pipeline.client.requests import InputType
from embed_pipeline.redaction import without_credentials

SourceKind = Literal["url", "presigned_url", "direct_upload", "multipart_upload", "base64"]

BASE64_BYTES: dict[InputType, int] = {
    "audio": 36_000_000,
    "video": 36_000_000,
    "image": 32_000_000,
    "document": 36_000_000,
}
UPLOAD_BYTES: dict[InputType, int] = {
    "audio": MULTIPART_UPLOAD_BYTES,
    "video": MULTIPART_UPLOAD_BYTES,
    "image": 32_000_000,
    "document": DIRECT_UPLOAD_BYTES,
}
_NOT_MEDIA_HOSTS = (
    "youtube.com",
    "youtu.be",
    "vimeo.com",
    "dailymotion.com",
    "drive.google.com",
    "dropbox.com",
    "onedrive.live.com",
    "1drv.ms",
)


@dataclass(frozen=True, kw_only=True)
class MediaFacts:
    """What is known of a media file, as far as the choice needs it.

    Attributes:
        input_type: What it is.
        size: Bytes, or None if unknown.
        public_url: A direct link that anybody may fetch, or None.
        can_presign: Whether its store can make a URL that is good for a while.
        readable: Whether its bytes can be read here.
        can_upload: Whether an asset may be made of it.
    """

    input_type: InputType
    size: int | None = None
    public_url: str | None = None
    can_presign: bool = False
    readable: bool = True
    can_upload: bool = True


def choose_source(facts: MediaFacts, *, allow_base64: bool = False) -> SourceKind:
    """The road to the platform, the first of these that is open.

    1. ``url``: a public link costs nothing and its task can always be found again in the list.
    2. ``presigned_url``: the same, with a signature that must outlive the platform's queue.
    3. ``direct_upload``: up to 200 MB; found again by its unique file name.
    4. ``multipart_upload``: up to 10 GB; likewise.
    5. ``base64``: up to 36 MB (an image: 32 MB), only if allowed and where no upload is possible, since a create from
       base64 whose outcome stays unknown cannot be settled.

    An image may have 32 MB whichever way it goes; a document is uploaded directly.

    Args:
        facts: What is known of the file.
        allow_base64: Whether base64 may be chosen, where an upload is not possible.

    Raises:
        InvalidRequestError: No road is open; the message says why.
    """
    if facts.public_url is not None:
        check_direct_link(facts.public_url)
        return "url"
    if facts.can_presign:
        return "presigned_url"
    if not facts.readable:
        raise InvalidRequestError("The media has no URL and cannot be read here, so the platform cannot get it.")
    if facts.size is None:
        raise InvalidRequestError("The size of the media is not known, so no upload can be chosen: give its size.")
    if facts.size == 0:
        raise InvalidRequestError("The media is empty.")
    largest = UPLOAD_BYTES[facts.input_type]
    if facts.can_upload and facts.size <= largest:
        return "direct_upload" if facts.size <= DIRECT_UPLOAD_BYTES else "multipart_upload"
    if allow_base64 and facts.size <= BASE64_BYTES[facts.input_type]:
        return "base64"
    if facts.can_upload:
        raise InvalidRequestError(f"The media has {facts.size} bytes; {facts.input_type} uploads take up to {largest}.")
    raise InvalidRequestError(
        f"The media has no URL and may not be uploaded; base64 takes up to {BASE64_BYTES[facts.input_type]} bytes of "
        f"{facts.input_type} and only if allow_base64 is set."
    )


def check_direct_link(url: str) -> None:
    """Refuses links to pages about media, which the platform refuses too.

    Raises:
        InvalidRequestError: Not http(s), or a hosting platform, or a cloud drive's share link.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidRequestError(f"{without_credentials(url)} is no http(s) link; the platform fetches nothing else.")
    if any(host == known or host.endswith(f".{known}") for known in _NOT_MEDIA_HOSTS):
        raise InvalidRequestError(f"{host} serves pages and share links; the platform wants a direct link.")
