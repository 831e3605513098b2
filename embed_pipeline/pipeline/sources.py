"""Delivery of a media file to the platform, and what its task leaves in the platform's list."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from embed_pipeline.errors import ConfigurationError, MediaError
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from embed_pipeline.client import Asset, CreateTaskRequest, EmbedClient, MediaSource, SourceRef
    from embed_pipeline.ledger import TaskRow
    from embed_pipeline.media import MediaFile, MediaLibrary

Delivery = Literal["auto", "url", "upload", "base64", "file"]

_SIGNED_FOR_SEC = 6 * 3600


def delivery_for(file: MediaFile, wanted: Delivery, platform: str) -> Delivery:
    """Choose how a file is delivered.

    A file that has a URL is read from there. A local one is read in place by the emulator, which shares our disk, and
    uploaded to anything else.
    """
    if wanted != "auto":
        return wanted
    if urlsplit(file.uri).scheme == "file":
        return "file" if platform == "emulator" else "upload"
    return "url"


def upload_name(path: str, fingerprint: str, settings_digest: str) -> str:
    """Return a file name that no other upload has: it names the content and the settings, and keeps the ending."""
    name = PurePosixPath(path.encode("utf-8", "replace").decode())
    return f"{name.stem[:80]}.{fingerprint[:12]}.{settings_digest}{name.suffix}"


def source_of(
    file: MediaFile, delivery: Delivery, library: MediaLibrary, *, fingerprint: str, digest: str
) -> tuple[str | None, str | None]:
    """Return the URL, without its query, or the file name by which a task for this file is found in the list."""
    if delivery == "file":
        return file.uri, None
    if delivery == "url":
        # The address that is sent may differ from the file's own, as an object's does from its https address.
        return without_credentials(library.signed_url(file, expires_sec=3600) or file.uri), None
    if delivery == "upload":
        return None, upload_name(file.path, fingerprint, digest)
    return None, None


def source_refs(row: TaskRow, library: MediaLibrary) -> tuple[SourceRef, ...]:
    """Return what the task of a claim leaves in the platform's list; nothing for one of base64.

    The ledger keeps no query, which may hold a secret; as it may also tell two media apart, the library is asked.
    """
    from embed_pipeline.client import SourceRef

    if row.source_url is None:
        return (SourceRef(filename=row.source_filename),) if row.source_filename is not None else ()
    url = None
    with suppress(MediaError):
        url = library.signed_url(library.file(row.key), expires_sec=3600)
    return (SourceRef(url=url if url is not None and without_credentials(url) == row.source_url else row.source_url),)


def url_or_data(file: MediaFile, delivery: Delivery, library: MediaLibrary) -> MediaSource:
    """Return the source of a file that is not uploaded.

    Raises:
        ConfigurationError: The file has no URL.
        MediaError: The file cannot be read.
    """
    from embed_pipeline.client import MediaSource

    if delivery == "file":
        return MediaSource(url=file.uri)
    if delivery == "url":
        url = library.signed_url(file, expires_sec=_SIGNED_FOR_SEC)
        if url is None:
            raise ConfigurationError(f"{file.uri} has no URL that the platform can read. Set delivery to upload.")
        return MediaSource(url=url)
    with library.open(file) as stream:
        import base64

        return MediaSource(base_64_string=base64.b64encode(stream.read()).decode())


def upload(
    file: MediaFile, library: MediaLibrary, client: EmbedClient, name: str, *, look_first: bool
) -> tuple[str, bool]:
    """Upload a file, and return the asset's id once the platform has taken it.

    Args:
        file: The file.
        library: Where it is.
        client: The platform.
        name: The upload's unique file name.
        look_first: Whether a run that died may have uploaded it already: then that upload is used, and others of the
            same name are deleted.

    Returns:
        The asset's id, and whether it is a new one.

    Raises:
        ConfigurationError: The file is not on this machine.
        UploadError: The platform could not take it.
    """
    from embed_pipeline.client import PollPolicy

    path = library.local_path(file)
    if path is None:
        raise ConfigurationError(f"{file.uri} is not on this machine, so it cannot be uploaded. Set delivery to url.")
    if look_first:
        found = uploads_named(client, name)
        ready = next((asset for asset in found if asset.status == "ready"), None)
        for asset in found:
            if asset is not ready:
                client.assets.delete(str(asset.id))
        if ready is not None:
            return str(ready.id), False
    # What the platform does with a small file takes less than a second.
    poll = PollPolicy(initial_sec=0.2, max_sec=15.0)
    return str(client.assets.upload(path, type=file.media_type, filename=name, poll=poll).id), True


def uploads_named(client: EmbedClient, name: str) -> list[Asset]:
    """Return the uploads with a file name."""
    return [asset for asset in client.assets.list(filename=name) if asset.id and asset.filename == name]


def typed_request(request: Mapping[str, Any], source: MediaSource) -> dict[str, Any]:
    """Return the keywords of `tasks.create` for a source.

    Args:
        request: What is asked for, but for the source.
        source: Where the media is.
    """
    from embed_pipeline.client import AudioInputRequest, VideoInputRequest

    media_type = request["input_type"]
    of_type = VideoInputRequest if media_type == "video" else AudioInputRequest
    return {**request, media_type: of_type.model_validate({**request[media_type], "media_source": source})}


def compared_request(request: Mapping[str, Any], url: str) -> CreateTaskRequest:
    """Return a request as listed tasks are compared with it; the comparison leaves its source out."""
    from embed_pipeline.client import CreateTaskRequest, MediaSource

    keywords = typed_request(request, MediaSource(url=url))
    return CreateTaskRequest(**{name: value for name, value in keywords.items() if value is not None})
