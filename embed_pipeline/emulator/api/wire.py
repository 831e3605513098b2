"""The bodies the emulator answers with: errors, tasks in lists and results, vectors as JSON."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import orjson

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.request import AcceptedRequest
from embed_pipeline.emulator.state.clock import to_rfc3339
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from embed_pipeline.emulator.state.tasks import Task

DOCS_URL = "https://docs.twelvelabs.io/api-reference/error-codes"
TASK_ID = re.compile(r"[0-9a-fA-F]{24}")
_NESTED_CODES = {
    "parameter_invalid": "VALIDATION_ERROR",
    "parameter_unknown": "VALIDATION_ERROR",
    "parameter_not_provided": "VALIDATION_ERROR",
    "resource_not_exist": "RESOURCE_NOT_EXIST",
    "too_many_requests": "RATE_LIMIT_EXCEEDED",
    "api_key_invalid": "API_KEY_INVALID",
    "internal_server_error": "INTERNAL_SERVER_ERROR",
}


def error_body(refusal: Refusal, *, nested: bool) -> bytes:
    """Write an error in one of the platform's two shapes.

    Args:
        refusal: What is wrong.
        nested: `{"error": {...}}` if true, else the flat shape with a `docs_url`.
    """
    if not nested:
        return orjson.dumps({"code": refusal.code, "message": refusal.message, "docs_url": DOCS_URL})
    details = dict(refusal.details)
    if refusal.field is not None:
        details["field"] = refusal.field
    if refusal.value is not None:
        details["value"] = _short(refusal.value)
    error: dict[str, Any] = {"code": _NESTED_CODES.get(refusal.code, refusal.code), "message": refusal.message}
    if details:
        error["details"] = details
    return orjson.dumps({"error": error})


def nested_shape(switches: Switches, *, embed: bool) -> bool:
    """Return whether an endpoint's errors are nested: as documented, for embed tasks and nothing else."""
    return embed if switches.error_shape == "documented" else switches.error_shape == "nested"


def created_body(task_id: str, request: AcceptedRequest) -> bytes:
    """Write the answer to a create; only the newer model has metadata in it."""
    body: dict[str, Any] = {"_id": task_id, "status": "processing", "data": None}
    if request.model_name == "marengo3.5":
        body["metadata"] = {"embedding_dimension": request.dimension}
    return orjson.dumps(body)


def echoed_url(url: str | None, switches: Switches) -> str | None:
    """Return a source's URL as results show it."""
    if url is None or switches.echo_url == "never":
        return None
    return without_credentials(url) if switches.echo_url == "without_query" else url


def list_item(task: Task, switches: Switches) -> dict[str, Any]:
    """Write a task as the list shows it; its field names differ from those of a retrieve."""
    request = task.request
    metadata: dict[str, Any] = origin_fields(task.input_url, task.input_filename, switches)
    prefix = request.input_type
    if prefix == "video":
        if request.fixed_sec is not None:
            metadata["video_clip_length"] = request.fixed_sec
        metadata["video_embedding_scope"] = list(request.scopes)
        metadata["video_embedding_option"] = list(request.options)
    else:
        # Older SDKs read the plural names, newer ones the singular: both are served.
        for plural in ("", "s"):
            metadata[f"audio_embedding_scope{plural}"] = list(request.scopes)
            metadata[f"audio_embedding_option{plural}"] = list(request.options)
        metadata.update(_offsets(request))
    if task.duration is not None:
        metadata["duration"] = task.duration
    return {
        "_id": task.id,
        "model_name": request.model_name,
        "status": task.status,
        "created_at": to_rfc3339(task.created_at),
        "updated_at": to_rfc3339(task.updated_at),
        f"{prefix}_embedding": {"metadata": metadata},
    }


def task_body(task: Task, switches: Switches) -> dict[str, Any]:
    """Write a task as retrieve shows it, but for its vectors: `data` is null here."""
    body: dict[str, Any] = {
        "_id": task.id,
        "status": task.status,
        "created_at": to_rfc3339(task.created_at),
        "updated_at": to_rfc3339(task.updated_at),
        "data": None,
    }
    shown = task.status == "ready" or (switches.metadata_while_processing and task.status == "processing")
    if shown and task.duration is not None:
        origin = origin_fields(task.input_url, task.input_filename, switches)
        body["metadata"] = media_metadata(task.request, origin, task.duration, task.engine)
    if task.status == "ready" and task.usage is not None:
        body["usage"] = task.usage
    if task.status == "failed":
        body["error"] = {"message": task.error or "The embedding task failed. Please try again later."}
    return body


def media_metadata(
    request: AcceptedRequest, origin: dict[str, Any], duration: float | None, engine: str | None
) -> dict[str, Any]:
    """Write the metadata of a result.

    Args:
        request: What was asked for.
        origin: What `origin_fields` returned.
        duration: Its length in seconds.
        engine: What computed the vectors; the platform's results have no such field.
    """
    metadata: dict[str, Any] = {"input_type": request.input_type, **origin}
    if request.input_type == "video" and request.fixed_sec is not None:
        metadata["clip_length"] = request.fixed_sec
    metadata["embedding_scopes"] = list(request.scopes)
    metadata["embedding_options"] = list(request.options)
    metadata["duration"] = duration
    metadata.update(_offsets(request))
    if request.model_name == "marengo3.5":
        metadata["embedding_dimension"] = request.dimension
    if engine is not None:
        metadata["embedding_engine"] = engine
    return metadata


def origin_fields(input_url: str | None, input_filename: str | None, switches: Switches) -> dict[str, Any]:
    """Write where a medium came from."""
    url = echoed_url(input_url, switches)
    if url is not None:
        return {"input_url": url}
    return {} if input_filename is None else {"input_filename": input_filename}


def _offsets(request: AcceptedRequest) -> dict[str, Any]:
    offsets: dict[str, Any] = {}
    if request.start_sec is not None:
        offsets["start_offset_sec"] = request.start_sec
    if request.end_sec is not None:
        offsets["end_offset_sec"] = request.end_sec
    return offsets


def ready_frame(body: dict[str, Any]) -> tuple[bytes, bytes]:
    """Write what stands before and after the rows of a ready task.

    Args:
        body: What `task_body` returned; `rows_json` goes in place of its null `data`.
    """
    return orjson.dumps({key: value for key, value in body.items() if key != "data"})[:-1] + b',"data":[', b"]}"


def page_info(page: int, limit: int, total: int) -> dict[str, int]:
    """Describe a page; an empty list has no pages."""
    return {"limit_per_page": limit, "page": page, "total_page": -(-total // limit), "total_results": total}


def _short(value: Any) -> Any:
    """Keep an echoed value small and serialisable: it is there for a person to recognise."""
    if isinstance(value, bool | int | float) and abs(value) < 2**53:
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 200 else text[:200] + "…"
