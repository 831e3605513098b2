"""How a media file reaches the platform, and the mark by which its task is found again in the platform's list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient, MediaSource, SourceRef
    from embed_pipeline.media import MediaFile, MediaLibrary

Delivery = Literal["auto", "url", "upload", "base64", "file"]


def delivery_for(file: MediaFile, wanted: Delivery, platform: str) -> Delivery:
    """How this file is delivered, where the choice is left to us.

    A file that has a URL is read from there. A local one is read in place by the emulator, which shares our disk, and
    uploaded to anything else.
    """
    if wanted != "auto":
        return wanted
    if urlsplit(file.uri).scheme in {"http", "https"}:
        return "url"
    if urlsplit(file.uri).scheme == "file":
        return "file" if platform == "emulator" else "upload"
    return "url"


def upload_name(path: str, fingerprint: str, settings_digest: str) -> str:
    """A file name that no other upload has: it names the content and the settings, and keeps the ending."""
    name = PurePosixPath(path)
    return f"{name.stem[:80]}.{fingerprint[:12]}.{settings_digest}{name.suffix}"


def expected_marker(
    file: MediaFile, delivery: Delivery, library: MediaLibrary, *, fingerprint: str, digest: str
) -> SourceRef | None:
    """What a task for this file would leave in the platform's list; None where that is nothing."""
    from embed_pipeline.client import SourceRef

    if delivery == "file":
        return SourceRef(url=file.uri)
    if delivery == "url":
        # The address that was sent may differ from the file's own, as an object's does from its https address.
        return SourceRef(url=library.signed_url(file, expires_sec=3600) or file.uri)
    if delivery == "upload":
        return SourceRef(filename=upload_name(file.path, fingerprint, digest))
    return None


def former_marker(key: str, uri: str | None, delivery: Delivery, *, fingerprint: str, digest: str) -> SourceRef | None:
    """What a task for the same content would have left under another name, which may be gone by now."""
    from embed_pipeline.client import SourceRef
    from embed_pipeline.media import decode_partition_key

    if delivery == "upload":
        return SourceRef(filename=upload_name(decode_partition_key(key), fingerprint, digest))
    if delivery != "base64" and uri is not None and urlsplit(uri).scheme in {"file", "http", "https"}:
        return SourceRef(url=uri)
    return None


def prepare(
    file: MediaFile, delivery: Delivery, library: MediaLibrary, client: EmbedClient, *, fingerprint: str, digest: str
) -> MediaSource:
    """Make the file readable for the platform; an upload returns when the platform has taken it."""
    from embed_pipeline.client import MediaSource

    if delivery == "file":
        return MediaSource(url=file.uri)
    if delivery == "url":
        url = library.signed_url(file, expires_sec=6 * 3600)
        if url is None:
            raise ConfigurationError(f"{file.uri} has no URL that the platform can read. Set delivery to upload.")
        return MediaSource(url=url)
    if delivery == "upload":
        name = upload_name(file.path, fingerprint, digest)
        path = library.local_path(file)
        if path is None:
            raise ConfigurationError(
                f"{file.uri} is not on this machine, so it cannot be uploaded. Set delivery to url."
            )
        asset = client.assets.upload(path, type=file.media_type, filename=name)
        return MediaSource(asset_id=asset.id)
    with library.open(file) as stream:
        import base64

        return MediaSource(base_64_string=base64.b64encode(stream.read()).decode())


def typed_request(request: Mapping[str, Any], source: MediaSource) -> dict[str, Any]:
    """The keywords of ``tasks.create`` for this source.

    Args:
        request: What is asked for, but for the source.
        source: Where the media is.
    """
    from embed_pipeline.client import AudioInputRequest, VideoInputRequest

    media_type = request["input_type"]
    of_type = VideoInputRequest if media_type == "video" else AudioInputRequest
    return {**request, media_type: of_type.model_validate({**request[media_type], "media_source": source})}
