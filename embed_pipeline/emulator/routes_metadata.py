"""The calls on an asset's user metadata: replace it, merge into it, delete it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embed_pipeline.emulator.answers import in_thread, platform_of, read_json
from embed_pipeline.emulator.refusal import Refusal
from embed_pipeline.emulator.routes_assets import checked_metadata
from embed_pipeline.emulator.routes_tasks import not_found

_BODY = 1 << 20
Metadata = dict[str, Any]


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
        body = await read_json(request, _BODY)
        if not isinstance(body, dict) or set(body) != {"user_metadata"} or not isinstance(body["user_metadata"], dict):
            raise Refusal("The body must be an object with user_metadata, an object, alone.", "user_metadata")
        checked_metadata(body["user_metadata"])
        given = body["user_metadata"]
    change = merged if request.method == "PATCH" else replaced
    if not await in_thread(request, platform.assets.change_metadata, asset_id, lambda kept: change(kept, given)):
        raise not_found("Asset", asset_id)
    return Response(status_code=204)


ROUTES = [Route("/assets/{asset_id}/user-metadata", change_metadata, methods=["PUT", "PATCH", "DELETE"])]
