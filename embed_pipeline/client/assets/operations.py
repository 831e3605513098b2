"""Assets: media that was uploaded to the platform, to be embedded from there."""

from __future__ import annotations

import json
import mimetypes
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from pydantic import Field

from embed_pipeline.client.errors import (
    ApiError,
    ConnectionFailedError,
    InternalServerError,
    InvalidRequestError,
    TooManyRequestsError,
    UploadError,
    WaitTimeoutError,
    classify_failure,
)
from embed_pipeline.client.exchange import (
    Flow,
    Form,
    Outgoing,
    Reply,
    RequestOptions,
    Session,
    create_once,
    path_segment,
    pause,
    read,
)
from embed_pipeline.client.limits import PollPolicy
from embed_pipeline.client.listing import Page, Walk, check_page_limit, parse_page
from embed_pipeline.client.requests import MediaSource
from embed_pipeline.client.responses import PageInfo, ResponseModel

DIRECT_UPLOAD_BYTES = 200_000_000
AssetMethod = Literal["direct", "url"]
T = TypeVar("T")


class AssetError(ResponseModel):
    """Why an asset failed, in the platform's words."""

    message: str | None = None


class Asset(ResponseModel):
    """Uploaded media.

    Attributes:
        id: The asset's id.
        method: How it came: ``direct``, ``url``, ``multipart``, ``connector``.
        status: ``processing``, ``ready`` or ``failed``; only a ready asset can be embedded.
        filename: Its name, by which tasks made from it can be found in the list.
        file_type: Its MIME type.
        created_at: By the platform's clock, UTC.
        user_metadata: What was given at upload.
        size: Bytes; only from ``retrieve``.
        duration: Seconds; only from ``retrieve``.
        error: Why it failed.
    """

    id: str | None = Field(default=None, alias="_id")
    method: str | None = None
    status: str | None = None
    filename: str | None = None
    file_type: str | None = None
    created_at: datetime | None = None
    user_metadata: dict[str, Any] | None = None
    size: int | None = None
    duration: float | None = None
    error: AssetError | None = None

    @property
    def media_source(self) -> MediaSource:
        """The source for a task that embeds this asset."""
        return MediaSource(asset_id=self.id)


class AssetsPage(ResponseModel):
    """One page of the list of assets."""

    data: list[Asset] | None = None
    page_info: PageInfo | None = None


def unique_filename(path: Path) -> str:
    """A name of at most 255 characters for an upload that no other upload has, so that its tasks can be told apart."""
    mark = uuid.uuid4().hex[:12]
    return f"{path.stem[: 255 - len(path.suffix) - 13]}-{mark}{path.suffix}"


def create_asset(
    session: Session,
    *,
    method: AssetMethod,
    file: Path | bytes | Callable[[], BinaryIO] | None = None,
    url: str | None = None,
    filename: str | None = None,
    enable_hls: bool | None = None,
    enable_thumbnail: bool | None = None,
    user_metadata: Mapping[str, Any] | str | None = None,
    options: RequestOptions | None = None,
) -> Flow[Asset]:
    """Uploads one file of up to 200 MB, or has the platform fetch a URL.

    Raises:
        InvalidRequestError: The platform would refuse this.
        ApiError: The platform refused, or could not be reached. After a connection that broke off it is not repeated,
            as the asset may exist.
    """
    if (method == "direct") != (file is not None) or (method == "url") != (url is not None):
        raise InvalidRequestError(
            f"An asset with method {method!r} takes {'file' if method == 'direct' else 'url'} only."
        )
    if isinstance(file, Path):
        _check_direct(file)
        filename = filename or file.name
    if filename is not None and not 1 <= len(filename) <= 255:
        raise InvalidRequestError(f"The file name has {len(filename)} characters; the platform takes 1 to 255.")
    fields = {
        "method": method,
        "url": url,
        "filename": filename,
        "enable_hls": _flag(enable_hls),
        "enable_thumbnail": _flag(enable_thumbnail),
        "user_metadata": user_metadata if isinstance(user_metadata, str | None) else json.dumps(user_metadata),
    }

    def form() -> Form:
        parts: Form = {name: (None, value) for name, value in fields.items() if value is not None}
        if file is not None:
            content = file.open("rb") if isinstance(file, Path) else file if isinstance(file, bytes) else file()
            name = filename or "upload"
            parts["file"] = (name, content, mimetypes.guess_type(name)[0] or "application/octet-stream")
        return parts

    request = Outgoing(method="POST", path="assets", form=form)
    return (yield from create_once(session, request, lambda reply: parse_page(Asset, reply), options))


def retrieve_asset(session: Session, asset_id: str, options: RequestOptions | None = None) -> Flow[Asset]:
    """One asset."""
    request = Outgoing(method="GET", path=f"assets/{path_segment(asset_id)}")
    return (yield from read(session, request, lambda reply: parse_page(Asset, reply), options))


def delete_asset(
    session: Session, asset_id: str, *, force: bool | None = None, options: RequestOptions | None = None
) -> Flow[None]:
    """Deletes an asset.

    Raises:
        ConflictError: It is still in use, and ``force`` is not set.
        NotFoundError: There is none.
    """
    request = Outgoing(method="DELETE", path=f"assets/{path_segment(asset_id)}", params={"force": _flag(force)})
    yield from read(session, request, lambda _: None, options)


def walk_assets(
    session: Session,
    *,
    page: int | None = None,
    page_limit: int | None = None,
    asset_ids: list[str] | None = None,
    asset_types: list[str] | None = None,
    filename: str | None = None,
    options: RequestOptions | None = None,
) -> Walk[Asset]:
    """A walk through the list of assets, newest first."""
    check_page_limit(page, page_limit)

    def fetch(number: int, _until: str | None) -> Flow[Page[Asset]]:
        params = {
            "page": number,
            "page_limit": page_limit,
            "asset_ids": asset_ids,
            "asset_types": asset_types,
            "filename": filename,
        }

        def parse(reply: Reply) -> Page[Asset]:
            body: AssetsPage = parse_page(AssetsPage, reply)
            return Page(body.data or [], body.page_info or PageInfo(), reply)

        return read(session, Outgoing(method="GET", path="assets", params=params), parse, options)

    return Walk(fetch, first_page=page or 1, page_limit=page_limit)


def wait_for_asset(
    session: Session, asset_id: str, *, timeout_sec: float, poll: PollPolicy | None = None
) -> Flow[Asset]:
    """The asset, once it is ready; an upload that has arrived is not ready yet.

    Raises:
        UploadError: It failed; the message holds the platform's words.
        WaitTimeoutError: The deadline passed.
    """
    poll, deadline, rounds = poll or PollPolicy(), session.monotonic() + timeout_sec, 0
    while True:
        rounds += 1
        last: ApiError | None = None
        try:
            asset = yield from retrieve_asset(session, asset_id)
        except (ConnectionFailedError, InternalServerError, TooManyRequestsError) as error:
            last = error
        else:
            if asset.status == "ready":
                return asset
            if asset.status == "failed":
                reason = (asset.error.message if asset.error is not None else None) or "it gave no reason"
                message = f"The platform could not process asset {asset_id} ({asset.filename}): {reason}"
                raise UploadError(message, passing=classify_failure(reason) == "transient")
        left = deadline - session.monotonic()
        if left <= 0:
            why = f" The last answer was: {last.message}" if last is not None else ""
            raise WaitTimeoutError(
                f"After {timeout_sec:.0f} s asset {asset_id} is not ready; it may become so later.{why}"
            ) from last
        interval = poll.interval(rounds)
        if last is not None and last.retry_after_sec is not None:
            interval = max(interval, last.retry_after_sec)
        yield from pause(session, min(interval, left))


def _check_direct(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UploadError(f"{path} cannot be read ({error.strerror}).") from None
    if size > DIRECT_UPLOAD_BYTES:
        message = f"{path} has {size} bytes; a direct upload takes {DIRECT_UPLOAD_BYTES}: use assets.upload."
        raise UploadError(message, passing=False)
    if not size:
        raise UploadError(f"{path} is empty.", passing=False)


def _flag(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()
