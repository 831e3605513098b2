"""Uploads in parts: streamed from the file, a few parts in memory at a time, and resumable after a crash."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from embed_pipeline.client.errors import ApiError, ConnectionFailedError, InvalidRequestError, UploadError
from embed_pipeline.client.exchange import (
    Call,
    Flow,
    Outgoing,
    RequestOptions,
    Session,
    Together,
    back_off,
    create_once,
    path_segment,
    read,
    transmit,
)
from embed_pipeline.client.listing import parse_page
from embed_pipeline.client.responses import ResponseModel

MULTIPART_UPLOAD_BYTES = 10_000_000_000
MAX_URLS = 50
_PARTS_AT_ONCE = 4
# A signed URL that ran out, or was used before, is refused with one of these by the object store behind it.
_URL_IS_SPENT = frozenset({400, 401, 403, 404, 409, 410, 412})
UploadType = Literal["video", "audio", "image"]


class PresignedUrl(ResponseModel):
    """Where one part goes; good for an hour and for one use."""

    chunk_index: int
    url: str
    expires_at: datetime | None = None


class CreateUploadResponse(ResponseModel):
    """A new upload: its ids, the size of its parts, and the first URLs."""

    upload_id: str
    asset_id: str
    chunk_size: int
    total_chunks: int
    upload_urls: list[PresignedUrl] = Field(default_factory=list)
    upload_headers: dict[str, str] | None = None
    expires_at: datetime | None = None


class PresignedUrlsResponse(ResponseModel):
    """More URLs."""

    upload_urls: list[PresignedUrl] = Field(default_factory=list)


class UploadedChunk(ResponseModel):
    """What the platform knows of one part."""

    index: int
    status: str


class UploadStatusResponse(ResponseModel):
    """How far an upload has come."""

    upload_id: str | None = None
    status: str
    uploaded_chunks: list[UploadedChunk] | None = None
    page_info: dict[str, Any] | None = None


class ReportResponse(ResponseModel):
    """The answer to a report of parts; ``url`` is there once all have arrived."""

    asset_id: str | None = None
    processed_chunks: int | None = None
    duplicate_chunks: int | None = None
    total_completed: int | None = None
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What is needed to go on with an upload after a crash; keep it as JSON. It holds no secret.

    Attributes:
        upload_id: The platform's id of the upload; good for 24 hours.
        asset_id: The asset that it will be.
        filename: The name it was given.
        chunk_size: Bytes of a part; the last one may be shorter.
        total_chunks: How many parts.
        total_size: Bytes of the file.
        modified_ns: When the file was last changed, nanoseconds, so that a changed file is noticed.
        upload_headers: What every part is sent with.
    """

    upload_id: str
    asset_id: str
    filename: str
    chunk_size: int
    total_chunks: int
    total_size: int
    modified_ns: int
    upload_headers: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The upload as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Upload:
        """The upload that ``to_json`` wrote."""
        return cls(**json.loads(text))


UploadCallback = Callable[[Upload], None]
BytesCallback = Callable[[int, int], None]


def begin_upload(
    session: Session,
    *,
    filename: str,
    type: UploadType,
    total_size: int,
    enable_hls: bool | None = None,
    enable_thumbnail: bool | None = None,
    user_metadata: dict[str, Any] | None = None,
    options: RequestOptions | None = None,
) -> Flow[CreateUploadResponse]:
    """Opens an upload."""
    if not 1 <= total_size <= MULTIPART_UPLOAD_BYTES:
        raise InvalidRequestError(f"An upload has 1 to {MULTIPART_UPLOAD_BYTES} bytes; this one has {total_size}.")
    optional = {"enable_hls": enable_hls, "enable_thumbnail": enable_thumbnail, "user_metadata": user_metadata}
    body = {"filename": filename, "type": type, "total_size": total_size}
    body.update({name: value for name, value in optional.items() if value is not None})
    request = Outgoing(method="POST", path="assets/multipart-uploads", json=body)
    created: CreateUploadResponse = yield from create_once(
        session, request, lambda reply: parse_page(CreateUploadResponse, reply), options
    )
    return created


def more_urls(
    session: Session, upload_id: str, *, start: int, count: int, options: RequestOptions | None = None
) -> Flow[PresignedUrlsResponse]:
    """URLs for ``count`` parts (1 to 50) from ``start`` on, counted from 1."""
    path = f"assets/multipart-uploads/{path_segment(upload_id)}/presigned-urls"
    request = Outgoing(method="POST", path=path, json={"start": start, "count": count})
    return (yield from read(session, request, lambda reply: parse_page(PresignedUrlsResponse, reply), options))


def report_parts(
    session: Session, upload_id: str, completed_chunks: Sequence[dict[str, Any]], options: RequestOptions | None = None
) -> Flow[ReportResponse]:
    """Tells the platform which parts have arrived (1 to 50); telling it twice does no harm."""
    path = f"assets/multipart-uploads/{path_segment(upload_id)}"
    request = Outgoing(method="POST", path=path, json={"completed_chunks": list(completed_chunks)})
    return (yield from read(session, request, lambda reply: parse_page(ReportResponse, reply), options))


def upload_status(
    session: Session,
    upload_id: str,
    *,
    page: int | None = None,
    page_limit: int | None = None,
    options: RequestOptions | None = None,
) -> Flow[UploadStatusResponse]:
    """One page of what the platform knows of an upload."""
    request = Outgoing(
        method="GET",
        path=f"assets/multipart-uploads/{path_segment(upload_id)}",
        params={"page": page, "page_limit": page_limit},
    )
    return (yield from read(session, request, lambda reply: parse_page(UploadStatusResponse, reply), options))


def upload_in_parts(
    session: Session,
    path: Path,
    *,
    type: UploadType,
    filename: str,
    resume: Upload | None = None,
    parts_at_once: int = _PARTS_AT_ONCE,
    on_upload: UploadCallback | None = None,
    on_progress: BytesCallback | None = None,
    options: RequestOptions | None = None,
) -> Flow[Upload]:
    """Uploads a file in parts; at most ``parts_at_once`` of them are in memory, and nothing is written anywhere.

    Raises:
        UploadError: The file changed meanwhile, or the upload cannot be resumed.
        ApiError: The platform or its object store refused, or could not be reached.
    """
    size, modified_ns = _stat(path)
    urls: dict[int, str] = {}
    done: set[int] = set()
    if resume is None:
        created = yield from begin_upload(session, filename=filename, type=type, total_size=size, options=options)
        if created.chunk_size < 1 or created.total_chunks != -(-size // created.chunk_size):
            raise UploadError(
                f"The platform wants {created.total_chunks} parts of {created.chunk_size} bytes for {size} bytes."
            )
        upload = Upload(
            upload_id=created.upload_id,
            asset_id=created.asset_id,
            filename=filename,
            chunk_size=created.chunk_size,
            total_chunks=created.total_chunks,
            total_size=size,
            modified_ns=modified_ns,
            upload_headers=created.upload_headers or {},
        )
        urls = {each.chunk_index: each.url for each in created.upload_urls}
    else:
        upload = resume
        _check_unchanged(path, upload)
        done = yield from _arrived(session, upload)
    if on_upload is not None:
        on_upload(upload)
    sent = min(size, len(done) * upload.chunk_size)
    for batch in _batches([number for number in range(1, upload.total_chunks + 1) if number not in done]):
        for number in batch:
            if number not in urls:
                last = max(each for each in batch if each < number + MAX_URLS)
                more = yield from more_urls(session, upload.upload_id, start=number, count=last - number + 1)
                urls.update({each.chunk_index: each.url for each in more.upload_urls})
        _check_unchanged(path, upload)
        parts = [_send_part(session, path, upload, number, urls.pop(number, None)) for number in batch]
        proofs = yield Together(parts, parts_at_once)
        yield from report_parts(session, upload.upload_id, proofs, options)
        sent += sum(proof["chunk_size"] for proof in proofs)
        if on_progress is not None:
            on_progress(min(sent, size), size)
    _check_unchanged(path, upload)
    missing = set(range(1, upload.total_chunks + 1)) - (yield from _arrived(session, upload))
    if missing:
        raise UploadError(f"The platform still lacks {len(missing)} parts of {path}; resume upload {upload.upload_id}.")
    return upload


def _send_part(session: Session, path: Path, upload: Upload, number: int, url: str | None) -> Flow[dict[str, Any]]:
    policy, attempt = session.retries, 0
    content: bytes = yield Call(lambda: _read_part(path, upload, number))
    while True:
        attempt += 1
        if url is None:
            more = yield from more_urls(session, upload.upload_id, start=number, count=1)
            url = next((each.url for each in more.upload_urls if each.chunk_index == number), None)
            if url is None:
                raise UploadError(f"The platform gave no URL for part {number} of {path}.")
        request = Outgoing(method="PUT", path=url, content=content, headers=upload.upload_headers, foreign=True)
        error: ApiError
        try:
            reply = yield from transmit(session, request)
            if reply.succeeded:
                etag = reply.headers.get("etag", "").strip()
                if not etag:
                    raise UploadError(f"The object store took part {number} of {path} and named no ETag for it.")
                return {
                    "chunk_index": number,
                    "proof": etag.removeprefix("W/").strip('"'),
                    "proof_type": "etag",
                    "chunk_size": len(content),
                }
            error = session.error(reply, request.doing)
            again = reply.status_code in policy.read_statuses or reply.status_code in _URL_IS_SPENT
        except ConnectionFailedError as failed:
            error, again = failed, policy.retry_connection_errors
        yield from back_off(session, policy, attempt, error, again=again)
        url = None  # a URL is good for one use only


def _arrived(session: Session, upload: Upload) -> Flow[set[int]]:
    arrived: set[int] = set()
    for page in range(1, -(-upload.total_chunks // MAX_URLS) + 1):
        status = yield from upload_status(session, upload.upload_id, page=page, page_limit=MAX_URLS)
        if status.status == "completed":
            return set(range(1, upload.total_chunks + 1))
        if status.status != "active":
            raise UploadError(f"Upload {upload.upload_id} of {upload.filename} is {status.status}: begin a new one.")
        arrived |= {chunk.index for chunk in status.uploaded_chunks or [] if chunk.status == "completed"}
    return arrived


def _batches(numbers: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(numbers), MAX_URLS):
        yield numbers[start : start + MAX_URLS]


def _read_part(path: Path, upload: Upload, number: int) -> bytes:
    with path.open("rb") as file:
        file.seek((number - 1) * upload.chunk_size)
        content = file.read(upload.chunk_size)
    expected = min(upload.chunk_size, upload.total_size - (number - 1) * upload.chunk_size)
    if len(content) != expected:
        raise UploadError(f"{path} became shorter while it was uploaded; upload it again.")
    return content


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise UploadError(f"{path} cannot be read ({error.strerror}).") from None
    return found.st_size, found.st_mtime_ns


def _check_unchanged(path: Path, upload: Upload) -> None:
    if _stat(path) != (upload.total_size, upload.modified_ns):
        raise UploadError(f"{path} changed since its upload began; begin a new upload.")
