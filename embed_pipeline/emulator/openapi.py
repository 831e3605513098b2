"""The OpenAPI document of what the emulator serves, for people and for contract tests."""

from __future__ import annotations

from typing import Any

from embed_pipeline.emulator.rules import DIMENSIONS
from embed_pipeline.emulator.validation import MODELS, OPTIONS

Schema = dict[str, Any]
_ID = {"type": "string", "pattern": "^[0-9a-f]{24}$"}
_TIME = {"type": "string", "format": "date-time"}
_SECONDS = {"type": "number", "minimum": 0, "maximum": 10**6}
_STATUS = {"type": "string", "enum": ["processing", "ready", "failed"]}


def _object(properties: Schema, *required: str, closed: bool = False) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _words(*words: str) -> Schema:
    return {"type": "array", "items": {"type": "string", "enum": list(words)}, "minItems": 1, "uniqueItems": True}


def _cut(name: str, highest: int) -> Schema:
    return _object({name: {"type": "integer", "minimum": 2, "maximum": highest}}, name, closed=True)


def _segmentation(*strategies: str) -> Schema:
    """One shape for every strategy; the object named like the strategy comes with it, no other may."""
    cuts = {"fixed": _cut("duration_sec", 10), "dynamic": _cut("min_duration_sec", 5)}
    shapes = [
        _object({"strategy": {"const": name}, name: cuts[name]}, "strategy", name, closed=True) for name in strategies
    ]
    return {"oneOf": shapes}


def _source() -> Schema:
    url = {"type": "string", "pattern": r"^(https?://[a-z0-9-]+\.[a-z]+|file://)/[!-~]*$"}
    text = {"type": "string", "minLength": 1}
    named = {"url": url, "base64_string": text, "asset_id": text}
    return {"oneOf": [_object({name: schema}, name, closed=True) for name, schema in named.items()]}


def _create(model: str, kind: str) -> Schema:
    """What a create takes, for one model and one input type."""
    newer = model == "marengo3.5"
    strategies = ("fixed",) if kind == "audio" and not newer else ("fixed", "dynamic")
    cut = _segmentation(*strategies)
    timed = _object(
        {"start": _SECONDS, "end": _SECONDS, "text": {"type": "string"}}, "start", "end", "text", closed=True
    )
    media = {
        "media_source": _source(),
        "start_sec": _SECONDS,
        "end_sec": _SECONDS | {"description": "Greater than start_sec."},
        "segmentation": _object({"temporal": cut}, "temporal", closed=True) if newer else cut,
        "embedding_option": _words(*OPTIONS[model, kind]),
        "embedding_scope": _words("clip", "asset", *(["local"] if newer else [])),
        "embedding_type": _words("separate_embedding", "fused_embedding"),
    }
    top: Schema = {"input_type": {"const": kind}, "model_name": {"const": model}}
    if newer:
        media["time_based_metadata"] = _list_of(timed)
        top |= {"embedding_dimension": {"enum": list(DIMENSIONS)}, "embedding_uncertainty": {"type": "boolean"}}
    top[kind] = _object(media, "media_source", closed=True)
    return _object(top, "input_type", kind, *(["model_name"] if newer else []), closed=True)


def _schemas() -> Schema:
    flat_error = _object(
        {"code": {"type": "string"}, "message": {"type": "string"}, "docs_url": {"type": "string"}}, "code", "message"
    )
    nested_error = _object(
        {
            "error": _object(
                {"code": {"type": "string"}, "message": {"type": "string"}, "details": {"type": "object"}},
                "code",
                "message",
            )
        },
        "error",
    )
    row = {
        "embedding": _list_of({"type": "number"}),
        "embedding_option": {"type": "string"},
        "embedding_scope": {"type": "string", "enum": ["clip", "asset"]},
        "start_sec": {"type": "number"},
        "end_sec": {"type": "number"},
        "embedding_uncertainty": _list_of({"type": "number"}),
    }
    asset = {
        "_id": _ID,
        "method": {"type": "string", "enum": ["direct", "url", "multipart"]},
        "status": _STATUS,
        "filename": {"type": "string"},
        "file_type": {"type": "string"},
        "created_at": _TIME,
    }
    upload_url = _object({"chunk_index": {"type": "integer"}, "url": {"type": "string"}, "expires_at": _TIME})
    task = {"_id": _ID, "status": _STATUS, "created_at": _TIME, "updated_at": _TIME}
    return {
        "Error": {"anyOf": [flat_error, nested_error]},
        "CreateTask": {"oneOf": [_create(model, kind) for model in MODELS for kind in ("video", "audio")]},
        "CreatedTask": _object({"_id": _ID, "status": _STATUS, "data": {"type": "null"}}, "_id", "status"),
        "Task": _object(
            {
                **task,
                "data": {"anyOf": [{"type": "null"}, _list_of(_object(row, "embedding"))]},
                "metadata": {"type": "object"},
                "error": _object({"message": {"type": "string"}}, "message"),
            },
            "_id",
            "status",
        ),
        "TaskPage": _object(
            {
                "data": _list_of(_object({**task, "model_name": {"type": "string"}}, "_id", "status")),
                "page_info": _ref("PageInfo"),
            },
            "data",
            "page_info",
        ),
        "PageInfo": _object(
            {name: {"type": "integer"} for name in ("limit_per_page", "page", "total_page", "total_results")}
        ),
        "Asset": _object(asset, "_id", "status"),
        "AssetPage": _object({"data": _list_of(_ref("Asset")), "page_info": _ref("PageInfo")}, "data", "page_info"),
        "CreateAsset": _object(
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
        "CreateUpload": _object(
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
        "CreatedUpload": _object(
            {
                "upload_id": _ID,
                "asset_id": _ID,
                "upload_urls": _list_of(upload_url),
                "upload_headers": {"type": "object"},
                "chunk_size": {"type": "integer"},
                "total_chunks": {"type": "integer"},
                "expires_at": _TIME,
            },
            "upload_id",
            "asset_id",
        ),
        "MoreUrls": _object(
            {
                "start": {"type": "integer", "minimum": 1},
                "count": {"type": "integer", "minimum": 1, "maximum": 50},
            },
            "start",
            "count",
            closed=True,
        ),
        "ReportChunks": _object(
            {
                "completed_chunks": {
                    **_list_of(
                        _object(
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
        _query("asset_ids", _list_of({"type": "string"})),
        _query("asset_types", _words("image", "video", "audio", "document")),
        _query("filename", {"type": "string"}),
    ]
    uploads = "/assets/multipart-uploads"
    paths: Schema = {
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
