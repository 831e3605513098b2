"""The OpenAPI document of what the emulator serves, made from the models of its requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, WithJsonSchema
from typing_extensions import TypedDict  # before Python 3.12, pydantic takes no other

from embed_pipeline.emulator.rules import schema
from embed_pipeline.emulator.rules.schema import QUERIES, TASKS
from embed_pipeline.emulator.rules.tokens import TRUNCATION_REASON

Document: TypeAlias = dict[str, Any]
Id = Annotated[str, Field(pattern="^[0-9a-f]{24}$")]
Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Status = Literal["processing", "ready", "failed"]
Count = Annotated[int, Field(ge=0)]


class ErrorDetails(TypedDict, total=False):
    """An error."""

    code: Required[str]
    message: Required[str]
    docs_url: str
    details: dict[str, Any]


class NestedError(TypedDict):
    """An error, in the shape of embed tasks; lists and assets have it flat."""

    error: ErrorDetails


class Row(TypedDict, total=False):
    """One vector."""

    embedding: Required[list[float]]
    embedding_option: str | None
    embedding_scope: Literal["clip", "asset"] | None
    start_sec: float | None
    end_sec: float | None
    embedding_uncertainty: list[float]


class InputTokens(TypedDict, total=False):
    """Input tokens by content type."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    video: Count
    audio: Count
    image: Count
    text: Count


class Usage(TypedDict, total=False):
    """Usage of a request with Marengo 3.5."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    input_tokens: Required[InputTokens]
    truncated: Required[bool]
    truncation_reason: Annotated[str, WithJsonSchema({"const": TRUNCATION_REASON})]


class Embedded(TypedDict, total=False):
    """The vectors of what was embedded at once."""

    data: Required[list[Row]]
    metadata: dict[str, Any]
    usage: Usage
    embedding_engine: str
    embedding_comparable_with: list[str]


class CreatedTask(TypedDict, total=False):
    """A task that was just created."""

    _id: Required[Id]
    status: Required[Status]
    data: None


class TaskSummary(TypedDict, total=False):
    """A task as the list shows it."""

    _id: Required[Id]
    status: Required[Status]
    created_at: Time
    updated_at: Time
    model_name: str


class Failure(TypedDict):
    """The reason of a failed task."""

    message: str


class Task(TypedDict, total=False):
    """A task, with all its vectors once it is ready."""

    _id: Required[Id]
    status: Required[Status]
    created_at: Time
    updated_at: Time
    data: list[Row] | None
    metadata: dict[str, Any]
    usage: Usage
    error: Failure


class PageInfo(TypedDict):
    """Position of a page, and the totals."""

    limit_per_page: int
    page: int
    total_page: int
    total_results: int


class TaskPage(TypedDict):
    """A page of tasks, newest first."""

    data: list[TaskSummary]
    page_info: PageInfo


class Asset(TypedDict, total=False):
    """An uploaded file."""

    _id: Required[Id]
    method: Literal["direct", "url", "multipart"]
    status: Required[Status]
    filename: str
    file_type: str
    created_at: Time


class AssetPage(TypedDict):
    """A page of assets, newest first."""

    data: list[Asset]
    page_info: PageInfo


class CreateAsset(TypedDict, total=False):
    """A form that uploads a file, or names one to fetch."""

    method: Required[Literal["direct", "url"]]
    file: Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]
    url: str
    filename: Annotated[str, Field(min_length=1, max_length=255)]
    enable_hls: bool
    enable_thumbnail: bool
    user_metadata: str


class UploadUrl(TypedDict, total=False):
    """A presigned URL for one chunk."""

    chunk_index: int
    url: str
    expires_at: Time


class CreatedUpload(TypedDict, total=False):
    """An upload session that was just opened."""

    upload_id: Required[Id]
    asset_id: Required[Id]
    upload_urls: list[UploadUrl]
    upload_headers: dict[str, str]
    chunk_size: int
    total_chunks: int
    expires_at: Time


_SCHEMAS: tuple[type[Any], ...] = (
    *{**TASKS, **QUERIES}.values(),
    *(schema.CreateUpload, schema.MoreUrls, schema.ReportChunks, schema.ChangeMetadata),
    *(ErrorDetails, NestedError, Embedded, CreatedTask, Task, TaskPage, Asset, AssetPage, CreateAsset, CreatedUpload),
)


def _ref(model: type[Any]) -> Document:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _operation(
    summary: str,
    success: int,
    answer: type[Any] | None,
    *errors: int,
    body: type[Any] | tuple[type[Any], ...] = (),
    form: bool = False,
) -> Document:
    error = {"anyOf": [_ref(ErrorDetails), _ref(NestedError)]}
    refused = {"description": "Refused", "content": {"application/json": {"schema": error}}}
    done: Document = {"description": "Done"}
    if answer is not None:
        done["content"] = {"application/json": {"schema": {"type": "object"} if answer is dict else _ref(answer)}}
    responses: Document = {str(success): done, **{str(code): refused for code in (401, 429, *errors)}}
    operation: Document = {"summary": summary, "responses": responses}
    if body:
        wanted = {"oneOf": [_ref(model) for model in body]} if isinstance(body, tuple) else _ref(body)
        content = {"multipart/form-data" if form else "application/json": {"schema": wanted}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _query(name: str, kind: Any) -> Document:
    return {"name": name, "in": "query", "schema": TypeAdapter(kind).json_schema()}


def _path(name: str) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def openapi_document() -> Document:
    """Return the OpenAPI 3.1 document of the platform's API as the emulator serves it with its default switches."""
    adapters = [(model.__name__, "validation", TypeAdapter(model)) for model in _SCHEMAS]
    _, schemas = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    pages = [
        _query("page", Annotated[int, Field(ge=1, le=2**31)]),
        _query("page_limit", Annotated[int, Field(ge=1, le=50)]),
    ]
    task_filters = [_query("started_at", Time), _query("ended_at", Time), _query("status", Status)]
    kinds = Annotated[list[Literal["image", "video", "audio"]], Field(min_length=1)]
    asset_filters = [_query("asset_ids", list[str]), _query("asset_types", kinds), _query("filename", str)]
    create = _operation("Create an embedding task", 202, CreatedTask, 400, 413, body=tuple(TASKS.values()))
    create["responses"]["202"]["headers"] = {"Location": {"schema": {"type": "string"}}}
    metadata, uploads = schema.ChangeMetadata, "/assets/multipart-uploads"
    paths: Document = {
        "/embed-v2": {"post": _operation("Embed at once", 200, Embedded, 400, 413, body=tuple(QUERIES.values()))},
        "/embed-v2/tasks": {
            "post": create,
            "get": _operation("List embedding tasks", 200, TaskPage, 400) | {"parameters": [*pages, *task_filters]},
        },
        "/embed-v2/tasks/{task_id}": {
            "parameters": [_path("task_id")],
            "get": _operation("Retrieve an embedding task", 200, Task, 400, 404),
        },
        "/assets": {
            "post": _operation("Create an asset", 201, Asset, 400, body=CreateAsset, form=True),
            "get": _operation("List assets", 200, AssetPage, 400) | {"parameters": [*pages, *asset_filters]},
        },
        "/assets/{asset_id}": {
            "parameters": [_path("asset_id")],
            "get": _operation("Retrieve an asset", 200, Asset, 404),
            "delete": _operation("Delete an asset", 204, None, 400, 404, 409) | {"parameters": [_query("force", bool)]},
        },
        "/assets/{asset_id}/user-metadata": {
            "parameters": [_path("asset_id")],
            "put": _operation("Replace an asset's user metadata", 204, None, 400, 404, body=metadata),
            "patch": _operation("Merge into an asset's user metadata", 204, None, 400, 404, body=metadata),
            "delete": _operation("Delete an asset's user metadata", 204, None, 404),
        },
        uploads: {
            "post": _operation("Open an upload session", 201, CreatedUpload, 400, body=schema.CreateUpload),
            "get": _operation("List incomplete sessions", 200, dict, 400) | {"parameters": pages},
        },
        f"{uploads}/{{upload_id}}": {
            "parameters": [_path("upload_id")],
            "post": _operation("Report chunks", 200, dict, 400, 404, body=schema.ReportChunks),
            "get": _operation("Retrieve a session", 200, dict, 400, 404) | {"parameters": pages},
        },
        f"{uploads}/{{upload_id}}/presigned-urls": {
            "parameters": [_path("upload_id")],
            "post": _operation("Make further URLs", 200, dict, 400, 404, body=schema.MoreUrls),
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
            "schemas": schemas["$defs"],
        },
    }
