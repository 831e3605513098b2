"""The calls on assets: upload one directly or by URL, list, retrieve, delete."""

from __future__ import annotations

import mimetypes
import shutil
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from embed_pipeline.emulator.api.answers import in_thread, json_response, platform_of, read_json
from embed_pipeline.emulator.api.tasks import MAX_PAGE_LIMIT, not_found, number_from
from embed_pipeline.emulator.api.wire import page_info
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.rules.accept import checked
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.schema import ChangeMetadata
from embed_pipeline.emulator.rules.urls import check_url, link_fault
from embed_pipeline.emulator.state.clock import new_id

_KINDS = ("image", "video", "audio")
_LONGEST_NAME = 255
_FORM_SLACK = 1 << 20
_METADATA_BODY = 1 << 20
Metadata = dict[str, Any]


def asset_kind(file_type: str) -> str:
    """Return what a file is taken for by its MIME type: `audio`, `image`, or else `video`."""
    kind = file_type.partition("/")[0]
    return kind if kind in ("audio", "image") else "video"


def file_type_of(filename: str) -> str:
    """Guess a MIME type from a file's name."""
    return mimetypes.guess_type(filename)[0] or "application/octet-stream"


def checked_name(name: Any) -> str:
    """Return a file name that is a text of 1 to 255 characters.

    Raises:
        Refusal: If it is not.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME or "\0" in name:
        raise Refusal(f"filename must be a text of 1 to {_LONGEST_NAME} characters.", "filename")
    return name


def checked_metadata(value: Any) -> str | None:
    """Return user metadata as JSON text.

    Args:
        value: A JSON object, the text of one, or None.

    Raises:
        Refusal: If it is anything else.
    """
    if value is None or value == "":
        return None
    try:
        parsed = orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise Refusal("user_metadata must be a JSON object.", "user_metadata")
    for key, kept in parsed.items():
        texts = isinstance(kept, list) and all(isinstance(item, str) for item in kept)
        if not texts and not isinstance(kept, str | int | float | bool | None):
            message = f"user_metadata.{key[:80]} must be a text, a number, true, false or a list of texts."
            raise Refusal(message, "user_metadata")
    return orjson.dumps(parsed).decode()


def check_flags(values: Mapping[str, Any]) -> None:
    """Refuse an `enable_hls` or `enable_thumbnail` that is neither true nor false; nothing is made either way."""
    for name in ("enable_hls", "enable_thumbnail"):
        if values.get(name) not in (None, "", "true", "false"):
            raise Refusal(f"{name} must be true or false.", name)


async def create_asset(request: Request) -> Response:
    """`POST /assets`: take a file, or the URL of one; it is read later."""
    platform = platform_of(request)
    largest = platform.settings.sizes.direct_upload
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > largest + _FORM_SLACK:
        raise _too_large(largest)
    if not request.headers.get("content-type", "").startswith(
        ("multipart/form-data", "application/x-www-form-urlencoded")
    ):
        raise Refusal("An asset is created with a multipart/form-data body.", code="parameter_invalid")
    try:
        form = await _bounded(request, largest).form(max_files=1, max_fields=20)
    except (MultiPartException, ValueError) as error:
        raise Refusal("The body is not a valid form of at most one file and 20 fields.") from error
    except Exception as error:
        # The form parser has errors of its own for bodies that break off.
        if type(error).__module__.partition(".")[0] in ("python_multipart", "multipart", "starlette"):
            raise Refusal("The body is not a valid form.") from error
        raise
    async with _closing(form):
        body = await in_thread(request, _keep, platform, dict(form))
    return json_response(request, body, status=201)


def _bounded(request: Request, largest: int) -> Request:
    """Break a form off that is too large, whether or not it announced its size."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > largest + _FORM_SLACK:
            raise _too_large(largest)
        return message

    return Request(request.scope, receive)


class _closing:  # noqa: N801 - named like contextlib's
    def __init__(self, form: Any) -> None:
        self._form = form

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        await self._form.close()


def _keep(platform: Platform, form: dict[str, Any]) -> dict[str, Any]:
    settings, now = platform.settings, platform.clock.now()
    method, file, url = form.get("method"), form.get("file"), form.get("url")
    if method not in ("direct", "url"):
        raise Refusal("method must be direct or url.", "method", method if isinstance(method, str) else None)
    check_flags(form)
    metadata = checked_metadata(form.get("user_metadata"))
    asset_id = new_id(now)
    if method == "direct":
        if not isinstance(file, UploadFile):
            raise Refusal("file is required with method direct.", "file", code="parameter_not_provided")
        if (file.size or 0) > settings.sizes.direct_upload:
            raise _too_large(settings.sizes.direct_upload)
        filename = checked_name(form.get("filename") or file.filename or asset_id)
        with platform.assets.path(asset_id).open("wb") as target:
            shutil.copyfileobj(file.file, target, 1 << 20)
        url = None
    else:
        if not isinstance(url, str) or not url:
            raise Refusal("url is required with method url.", "url", code="parameter_not_provided")
        if (fault := link_fault(url)) is not None:
            raise Refusal(f"url {fault}", "url")
        check_url(url, media_root=None, allow_private=settings.allow_private_sources, field="url")
        filename = checked_name(form.get("filename") or unquote(PurePosixPath(urlsplit(url).path).name) or asset_id)
    file_type = file_type_of(filename)
    platform.assets.add(
        asset_id,
        now=now,
        method=method,
        filename=filename,
        file_type=file_type,
        kind=asset_kind(file_type),
        user_metadata=metadata,
        url=url,
        arrived=url is None,
    )
    asset = platform.assets.get(asset_id)
    platform.intake.take(asset_id)
    return {} if asset is None else asset.body(now)


def _too_large(limit: int) -> Refusal:
    message = f"file must not exceed {limit} bytes; use a multipart upload for larger ones."
    return Refusal(message, "file", code="video_filesize_too_large")


async def list_assets(request: Request) -> Response:
    """`GET /assets`: a page of assets, newest first."""
    platform, query = platform_of(request), request.query_params
    page = number_from(query.get("page"), "page", 1, 2**31)
    limit = number_from(query.get("page_limit"), "page_limit", 10, MAX_PAGE_LIMIT)
    kinds = query.getlist("asset_types")
    for kind in kinds:
        if kind not in _KINDS:
            raise Refusal(f"asset_types must hold only values of {', '.join(_KINDS)}.", "asset_types", kind)

    def read() -> tuple[list[dict[str, Any]], int]:
        found, total = platform.assets.page(
            ids=query.getlist("asset_ids"),
            kinds=kinds,
            filename=query.get("filename"),
            offset=(page - 1) * limit,
            limit=limit,
        )
        return [asset.body(platform.clock.now()) for asset in found], total

    items, total = await in_thread(request, read)
    return json_response(request, {"data": items, "page_info": page_info(page, limit, total)})


async def retrieve_asset(request: Request) -> Response:
    """`GET /assets/{asset_id}`: an asset with what is known of its file."""
    platform, asset_id = platform_of(request), request.path_params["asset_id"]
    asset = await in_thread(request, platform.assets.get, asset_id)
    if asset is None:
        raise not_found("Asset", asset_id)
    return json_response(request, asset.body(platform.clock.now(), detailed=True))


async def delete_asset(request: Request) -> Response:
    """`DELETE /assets/{asset_id}`: gone, unless an unfinished task still reads it."""
    platform, asset_id = platform_of(request), request.path_params["asset_id"]
    force = request.query_params.get("force", "false")
    if force not in ("true", "false"):
        raise Refusal("force must be true or false.", "force", force)

    def remove() -> None:
        if platform.assets.get(asset_id) is None:
            raise not_found("Asset", asset_id)
        if force == "false" and platform.store.uses_asset(asset_id):
            message = f"Asset {asset_id} is read by an unfinished embedding task; delete it with force=true."
            raise Refusal(message, status=409, code="asset_in_use")
        platform.assets.remove(asset_id)

    await in_thread(request, remove)
    return Response(status_code=204)


def replaced(_kept: Metadata, given: Metadata) -> Metadata:
    """Put metadata in place of what is kept; values that are null or empty are ignored."""
    return {key: value for key, value in given.items() if value not in (None, "", [])}


def merged(kept: Metadata, given: Metadata) -> Metadata:
    """Merge metadata into what is kept: null deletes a key, an empty text or list is ignored."""
    left = {key: value for key, value in kept.items() if key not in given or given[key] is not None}
    return left | replaced({}, given)


async def change_metadata(request: Request) -> Response:
    """`PUT`, `PATCH` or `DELETE /assets/{asset_id}/user-metadata`: answered with 204."""
    platform, asset_id = platform_of(request), request.path_params["asset_id"]
    given: Metadata = {}
    if request.method != "DELETE":
        given = checked(ChangeMetadata, await read_json(request, _METADATA_BODY)).user_metadata
        checked_metadata(given)
    change = merged if request.method == "PATCH" else replaced
    if not await in_thread(request, platform.assets.change_metadata, asset_id, lambda kept: change(kept, given)):
        raise not_found("Asset", asset_id)
    return Response(status_code=204)


ROUTES = [
    Route("/assets", create_asset, methods=["POST"]),
    Route("/assets", list_assets, methods=["GET"]),
    Route("/assets/{asset_id}", retrieve_asset, methods=["GET"]),
    Route("/assets/{asset_id}", delete_asset, methods=["DELETE"]),
    Route("/assets/{asset_id}/user-metadata", change_metadata, methods=["PUT", "PATCH", "DELETE"]),
]
