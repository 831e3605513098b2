"""The calls of a multipart upload: open a session, put chunks, report them, ask how far it is."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embed_pipeline.emulator.api.answers import in_thread, json_response, origin_of, platform_of, read_json
from embed_pipeline.emulator.api.assets import asset_kind, checked_metadata, file_type_of
from embed_pipeline.emulator.api.tasks import MAX_PAGE_LIMIT, not_found, number_from
from embed_pipeline.emulator.api.wire import page_info
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.rules.accept import checked
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.schema import CreateUpload, MoreUrls, ReportChunks, ReportedChunk
from embed_pipeline.emulator.state.clock import new_id, to_rfc3339
from embed_pipeline.emulator.state.uploads import URL_SEC, Upload

_FIRST_URLS = 10
_BODY = 1 << 20


def _at_most(value: int, name: str, highest: int) -> int:
    if value > highest:
        raise Refusal(f"{name} must be a whole number from 1 to {highest}.", name, value)
    return value


async def create_upload(request: Request) -> Response:
    """`POST /assets/multipart-uploads`: open a session and reserve the asset."""
    platform = platform_of(request)
    asked = checked(CreateUpload, await read_json(request, _BODY))
    total_size = _at_most(asked.total_size, "total_size", platform.settings.sizes.multipart_upload)
    metadata = checked_metadata(asked.user_metadata)
    now = platform.clock.now()
    upload = Upload(new_id(now), new_id(now), now, now, total_size, platform.settings.sizes.chunk, done=False)

    def keep() -> None:
        file_type = file_type_of(asked.filename)
        kind = asset_kind(f"{asked.type}/")
        platform.assets.add(
            upload.asset_id,
            now=now,
            method="multipart",
            filename=asked.filename,
            file_type=file_type,
            kind=kind,
            user_metadata=metadata,
        )
        platform.uploads.add(upload)

    await in_thread(request, keep)
    body = {
        "upload_id": upload.id,
        "asset_id": upload.asset_id,
        "upload_urls": platform.uploads.presigned(upload, origin_of(request), 1, _FIRST_URLS, now),
        "upload_headers": {"Content-Type": "application/octet-stream"},
        "chunk_size": upload.chunk_size,
        "total_chunks": upload.total_chunks,
        "expires_at": to_rfc3339(upload.expires_at),
    }
    return json_response(request, body, status=201)


async def put_chunk(request: Request) -> Response:
    """`PUT` to a presigned URL: the bytes of one chunk, for which an ETag comes back."""
    platform = platform_of(request)
    upload_id, number = request.path_params["upload_id"], request.path_params["number"]
    query = dict(request.query_params)
    now = platform.clock.now()
    upload = await in_thread(request, platform.uploads.receiving, upload_id, number, query, now)
    target = platform.uploads.incoming(upload, number)
    size = 0
    try:
        with target.open("wb") as file:
            async for block in request.stream():
                size += len(block)
                if size > upload.chunk_size:
                    raise Refusal(f"A chunk must not exceed {upload.chunk_size} bytes.", code="EntityTooLarge")
                file.write(block)
        etag = await in_thread(request, platform.uploads.keep_chunk, upload, number, target, query["nonce"])
    finally:
        target.unlink(missing_ok=True)
    return Response(status_code=200, headers={"ETag": f'"{etag}"'})


def _active(platform: Platform, upload_id: str) -> Upload:
    upload = platform.uploads.get(upload_id)
    if upload is None:
        raise not_found("Upload session", upload_id)
    if upload.status(platform.clock.now()) == "expired":
        raise Refusal("The upload session has expired; open a new one.", code="upload_expired")
    return upload


async def more_urls(request: Request) -> Response:
    """`POST /assets/multipart-uploads/{upload_id}/presigned-urls`: URLs for further chunks."""
    platform = platform_of(request)
    asked = checked(MoreUrls, await read_json(request, _BODY))
    upload = await in_thread(request, _active, platform, request.path_params["upload_id"])
    start = _at_most(asked.start, "start", upload.total_chunks)
    now = platform.clock.now()
    urls = platform.uploads.presigned(upload, origin_of(request), start, asked.count, now)
    body = {
        "upload_id": upload.id,
        "start_index": start,
        "count": len(urls),
        "upload_urls": urls,
        "generated_at": to_rfc3339(now),
        "expires_at": to_rfc3339(now + URL_SEC * 1000),
    }
    return json_response(request, body)


async def report_chunks(request: Request) -> Response:
    """`POST /assets/multipart-uploads/{upload_id}`: report chunks; the last report completes the asset."""
    platform = platform_of(request)
    reports = checked(ReportChunks, await read_json(request, _BODY)).completed_chunks

    def note() -> dict[str, Any]:
        upload = _active(platform, request.path_params["upload_id"])
        arrived, new, repeated = platform.uploads.chunks(upload), [], 0
        for report in reports:
            number = _proven(report, upload, arrived)
            if number in new or upload.done or arrived[number][2] is not None:
                repeated += 1
            else:
                new.append(number)
        total = upload.total_chunks if upload.done else platform.uploads.report(upload, new, platform.clock.now())
        body: dict[str, Any] = {
            "asset_id": upload.asset_id,
            "processed_chunks": len(new),
            "duplicate_chunks": repeated,
            "total_completed": total,
        }
        if total == upload.total_chunks:
            if platform.uploads.assemble(upload, platform.assets.path(upload.asset_id)):
                platform.intake.take(upload.asset_id)
            body["url"] = f"{origin_of(request)}/v1.3/assets/{upload.asset_id}"
        return body

    return json_response(request, await in_thread(request, note))


def _proven(report: ReportedChunk, upload: Upload, arrived: dict[int, tuple[str, int, int | None]]) -> int:
    """Hold one reported chunk to what arrived, and return its number."""
    number = _at_most(report.chunk_index, "chunk_index", upload.total_chunks)
    if number not in arrived:
        raise Refusal(f"Chunk {number} has not arrived.", "chunk_index", number)
    etag, size, _ = arrived[number]
    if report.proof.strip('"') != etag:
        raise Refusal(f"The proof of chunk {number} is not the ETag that its upload answered.", "proof")
    if report.chunk_size != size:
        raise Refusal(f"Chunk {number} has {size} bytes.", "chunk_size", report.chunk_size)
    return number


async def upload_status(request: Request) -> Response:
    """`GET /assets/multipart-uploads/{upload_id}`: how far a session is, chunk by chunk."""
    platform, query = platform_of(request), request.query_params
    page = number_from(query.get("page"), "page", 1, 2**31)
    limit = number_from(query.get("page_limit"), "page_limit", 10, MAX_PAGE_LIMIT)

    def read() -> dict[str, Any]:
        upload = platform.uploads.get(request.path_params["upload_id"])
        if upload is None:
            raise not_found("Upload session", request.path_params["upload_id"])
        chunks = platform.uploads.chunks(upload)
        reported = {number: chunk for number, chunk in chunks.items() if chunk[2] is not None}
        first = (page - 1) * limit + 1
        shown = []
        for number in range(first, min(first + limit, upload.total_chunks + 1)):
            moment = chunks[number][2] if number in chunks else None
            entry: dict[str, Any] = {"index": number, "status": "pending" if moment is None else "completed"}
            if moment is not None:
                entry |= {"uploaded_at": to_rfc3339(moment), "updated_at": to_rfc3339(moment)}
            shown.append(entry)
        return {
            "upload_id": upload.id,
            "status": upload.status(platform.clock.now()),
            "uploaded_chunks": shown,
            "chunks_completed": len(reported),
            "chunks_failed": 0,
            "chunks_pending": upload.total_chunks - len(reported),
            "page_info": page_info(page, limit, upload.total_chunks),
            "total_size": upload.total_size,
            "uploaded_size": sum(chunk[1] for chunk in reported.values()),
            "created_at": to_rfc3339(upload.created_at),
            "updated_at": to_rfc3339(upload.updated_at),
        }

    return json_response(request, await in_thread(request, read))


async def list_uploads(request: Request) -> Response:
    """`GET /assets/multipart-uploads`: the sessions that are not complete."""
    platform, query = platform_of(request), request.query_params
    page = number_from(query.get("page"), "page", 1, 2**31)
    limit = number_from(query.get("page_limit"), "page_limit", 10, MAX_PAGE_LIMIT)

    def read() -> dict[str, Any]:
        now = platform.clock.now()
        found, total = platform.uploads.incomplete(offset=(page - 1) * limit, limit=limit)
        items = [
            {
                "upload_id": upload.id,
                "status": upload.status(now),
                "total_size": upload.total_size,
                "chunk_size": upload.chunk_size,
                "total_chunks": upload.total_chunks,
                "created_at": to_rfc3339(upload.created_at),
                "expires_at": to_rfc3339(upload.expires_at),
            }
            for upload in found
        ]
        return {"data": items, "page_info": page_info(page, limit, total)}

    return json_response(request, await in_thread(request, read))


ROUTES = [
    Route("/assets/multipart-uploads", create_upload, methods=["POST"]),
    Route("/assets/multipart-uploads", list_uploads, methods=["GET"]),
    Route("/assets/multipart-uploads/{upload_id}", report_chunks, methods=["POST"]),
    Route("/assets/multipart-uploads/{upload_id}", upload_status, methods=["GET"]),
    Route("/assets/multipart-uploads/{upload_id}/presigned-urls", more_urls, methods=["POST"]),
]
CHUNK_ROUTE = Route("/_upload/{upload_id}/{number:int}", put_chunk, methods=["PUT"])
