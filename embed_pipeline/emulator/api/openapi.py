"""The OpenAPI document of what the emulator serves, for people and for contract tests."""

from __future__ import annotations

from embed_pipeline.emulator.api.openapi_requests import (
    Schema,
    create_schema,
    list_of,
    object_of,
    sync_schema,
    words_of,
)
from embed_pipeline.emulator.rules.tokens import TRUNCATION_REASON

_ID = {"type": "string", "pattern": "^[0-9a-f]{24}$"}
_TIME = {"type": "string", "format": "date-time"}
_STATUS = {"type": "string", "enum": ["processing", "ready", "failed"]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> Schema:
    flat_error = object_of(
        {"code": {"type": "string"}, "message": {"type": "string"}, "docs_url": {"type": "string"}}, "code", "message"
    )
    nested_error = object_of(
        {
            "error": object_of(
                {"code": {"type": "string"}, "message": {"type": "string"}, "details": {"type": "object"}},
                "code",
                "message",
            )
        },
        "error",
    )
    row = {
        "embedding": list_of({"type": "number"}),
        "embedding_option": {"type": ["string", "null"]},
        "embedding_scope": {"enum": ["clip", "asset", None]},
        "start_sec": {"type": ["number", "null"]},
        "end_sec": {"type": ["number", "null"]},
        "embedding_uncertainty": list_of({"type": "number"}),
    }
    counts = {kind: {"type": "integer", "minimum": 0} for kind in ("video", "audio", "image", "text")}
    usage = object_of(
        {
            "input_tokens": object_of(counts, closed=True),
            "truncated": {"type": "boolean"},
            "truncation_reason": {"const": TRUNCATION_REASON},
        },
        "input_tokens",
        "truncated",
        closed=True,
    )
    asset = {
        "_id": _ID,
        "method": {"type": "string", "enum": ["direct", "url", "multipart"]},
        "status": _STATUS,
        "filename": {"type": "string"},
        "file_type": {"type": "string"},
        "created_at": _TIME,
    }
    upload_url = object_of({"chunk_index": {"type": "integer"}, "url": {"type": "string"}, "expires_at": _TIME})
    task = {"_id": _ID, "status": _STATUS, "created_at": _TIME, "updated_at": _TIME}
    return {
        "Error": {"anyOf": [flat_error, nested_error]},
        "CreateTask": create_schema(),
        "EmbedAtOnce": sync_schema(),
        "Embedded": object_of(
            {
                "data": list_of(object_of(row, "embedding")),
                "metadata": {"type": "object"},
                "usage": usage,
                "embedding_engine": {"type": "string"},
                "embedding_comparable_with": list_of({"type": "string"}),
            },
            "data",
        ),
        "CreatedTask": object_of({"_id": _ID, "status": _STATUS, "data": {"type": "null"}}, "_id", "status"),
        "Task": object_of(
            {
                **task,
                "data": {"anyOf": [{"type": "null"}, list_of(object_of(row, "embedding"))]},
                "metadata": {"type": "object"},
                "usage": usage,
                "error": object_of({"message": {"type": "string"}}, "message"),
            },
            "_id",
            "status",
        ),
        "TaskPage": object_of(
            {
                "data": list_of(object_of({**task, "model_name": {"type": "string"}}, "_id", "status")),
                "page_info": _ref("PageInfo"),
            },
            "data",
            "page_info",
        ),
        "PageInfo": object_of(
            {name: {"type": "integer"} for name in ("limit_per_page", "page", "total_page", "total_results")}
        ),
        "Asset": object_of(asset, "_id", "status"),
        "AssetPage": object_of({"data": list_of(_ref("Asset")), "page_info": _ref("PageInfo")}, "data", "page_info"),
        "CreateAsset": object_of(
            {
                "method": {"type": "string", "enum": ["direct", "url"]},
                "file": {"type": "string", "format": "binary"},
                "url": {"type": "string"},
                "filename": {"type": "string", "minLength": 1, "maxLength": 255},
                "enable_hls": {"type": "boolean"},
                "enable_thumbnail": {"type": "boolean"},
                "user_metadata": {"type": "string"},
            },
            "method",
        ),
        "CreateUpload": object_of(
            {
                "filename": {"type": "string", "minLength": 1, "maxLength": 255},
                "type": {"type": "string", "enum": ["video", "audio", "image"]},
                "total_size": {"type": "integer", "minimum": 1},
                "enable_hls": {"type": "boolean"},
                "enable_thumbnail": {"type": "boolean"},
                "user_metadata": {"type": "object"},
            },
            "filename",
            "type",
            "total_size",
            closed=True,
        ),
        "CreatedUpload": object_of(
            {
                "upload_id": _ID,
                "asset_id": _ID,
                "upload_urls": list_of(upload_url),
                "upload_headers": {"type": "object"},
                "chunk_size": {"type": "integer"},
                "total_chunks": {"type": "integer"},
                "expires_at": _TIME,
            },
            "upload_id",
            "asset_id",
        ),
        "UserMetadata": object_of({"user_metadata": {"type": "object"}}, "user_metadata"),
        "MoreUrls": object_of(
            {
                "start": {"type": "integer", "minimum": 1},
                "count": {"type": "integer", "minimum": 1, "maximum": 50},
            },
            "start",
            "count",
            closed=True,
        ),
        "ReportChunks": object_of(
            {
                "completed_chunks": {
                    **list_of(
                        object_of(
                            {
                                "chunk_index": {"type": "integer", "minimum": 1},
                                "proof": {"type": "string"},
                                "proof_type": {"type": "string", "enum": ["etag"]},
                                "chunk_size": {"type": "integer", "minimum": 1},
                            },
                            "chunk_index",
                            "proof",
                            "proof_type",
                            "chunk_size",
                            closed=True,
                        )
                    ),
                    "minItems": 1,
                    "maxItems": 50,
                }
            },
            "completed_chunks",
            closed=True,
        ),
        "Object": {"type": "object"},
    }


def _operation(
    summary: str, success: int, answer: str | None, *errors: int, body: str | None = None, form: bool = False
) -> Schema:
    error = {"description": "Refused", "content": {"application/json": {"schema": _ref("Error")}}}
    done: Schema = {"description": "Done"}
    if answer is not None:
        done["content"] = {"application/json": {"schema": _ref(answer)}}
    responses: Schema = {str(success): done, **{str(code): error for code in (401, 429, *errors)}}
    operation: Schema = {"summary": summary, "responses": responses}
    if body is not None:
        content_type = "multipart/form-data" if form else "application/json"
        operation["requestBody"] = {"required": True, "content": {content_type: {"schema": _ref(body)}}}
    return operation


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "schema": schema}


def _path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def openapi_document() -> Schema:
    """Return the OpenAPI 3.1 document of the platform's API as the emulator serves it with its default switches."""
    pages = [
        _query("page", {"type": "integer", "minimum": 1, "maximum": 2**31, "default": 1}),
        _query("page_limit", {"type": "integer", "minimum": 1, "maximum": 50, "default": 10}),
    ]
    times = [_query(name, {"type": "string", "format": "date-time"}) for name in ("started_at", "ended_at")]
    create = _operation("Create an embedding task", 202, "CreatedTask", 400, 413, body="CreateTask")
    create["responses"]["202"]["headers"] = {"Location": {"schema": {"type": "string"}}}
    asset_filters = [
        _query("asset_ids", list_of({"type": "string"})),
        _query("asset_types", words_of("image", "video", "audio")),
        _query("filename", {"type": "string"}),
    ]
    uploads = "/assets/multipart-uploads"
    paths: Schema = {
        "/embed-v2": {"post": _operation("Embed at once", 200, "Embedded", 400, 413, body="EmbedAtOnce")},
        "/embed-v2/tasks": {
            "post": create,
            "get": _operation("List embedding tasks", 200, "TaskPage", 400)
            | {"parameters": [*pages, *times, _query("status", _STATUS)]},
        },
        "/embed-v2/tasks/{task_id}": {
            "parameters": [_path("task_id")],
            "get": _operation("Retrieve an embedding task", 200, "Task", 400, 404),
        },
        "/assets": {
            "post": _operation("Create an asset", 201, "Asset", 400, body="CreateAsset", form=True),
            "get": _operation("List assets", 200, "AssetPage", 400) | {"parameters": [*pages, *asset_filters]},
        },
        "/assets/{asset_id}": {
            "parameters": [_path("asset_id")],
            "get": _operation("Retrieve an asset", 200, "Asset", 404),
            "delete": _operation("Delete an asset", 204, None, 400, 404, 409)
            | {"parameters": [_query("force", {"type": "boolean", "default": False})]},
        },
        "/assets/{asset_id}/user-metadata": {
            "parameters": [_path("asset_id")],
            "put": _operation("Replace an asset's user metadata", 204, None, 400, 404, body="UserMetadata"),
            "patch": _operation("Merge into an asset's user metadata", 204, None, 400, 404, body="UserMetadata"),
            "delete": _operation("Delete an asset's user metadata", 204, None, 404),
        },
        uploads: {
            "post": _operation("Open an upload session", 201, "CreatedUpload", 400, body="CreateUpload"),
            "get": _operation("List incomplete sessions", 200, "Object", 400) | {"parameters": pages},
        },
        f"{uploads}/{{upload_id}}": {
            "parameters": [_path("upload_id")],
            "post": _operation("Report chunks", 200, "Object", 400, 404, body="ReportChunks"),
            "get": _operation("Retrieve a session", 200, "Object", 400, 404) | {"parameters": pages},
        },
        f"{uploads}/{{upload_id}}/presigned-urls": {
            "parameters": [_path("upload_id")],
            "post": _operation("Make further URLs", 200, "Object", 400, 404, body="MoreUrls"),
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "TwelveLabs Embed API v2, as the emulator serves it", "version": "1.3"},
        "servers": [{"url": "/v1.3"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "x-api-key"}},
            "schemas": _schemas(),
        },
    }
