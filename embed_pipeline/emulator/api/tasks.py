"""The three calls on embedding tasks: create, list, retrieve."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import chain
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embed_pipeline.emulator.api.answers import (
    accepts_gzip,
    file_response,
    in_thread,
    json_response,
    platform_of,
    read_json,
    streamed_json,
)
from embed_pipeline.emulator.api.wire import (
    TASK_ID,
    created_body,
    list_item,
    page_info,
    ready_frame,
    task_body,
)
from embed_pipeline.emulator.control.faults import LATE_KINDS, LIST_KINDS, FaultRule
from embed_pipeline.emulator.control.injection import Unanswered
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.rules.accept import accept_task
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.state.clock import from_rfc3339
from embed_pipeline.emulator.state.journal import JournalEntry
from embed_pipeline.emulator.state.tasks import Task
from embed_pipeline.redaction import without_credentials

STATUSES = ("processing", "ready", "failed")
MAX_PAGE_LIMIT = 50
_EXPIRED = "The embedding result is no longer available and cannot be retrieved."


async def create_task(request: Request) -> Response:
    """`POST /embed-v2/tasks`: check the request, keep the task, answer 202 before any work is done."""
    platform = platform_of(request)
    body = await read_json(request, platform.settings.sizes.body)
    accepted = accept_task(body, platform.settings.switches)
    entry: JournalEntry = request.scope["embed_emulator.journal"]
    late = platform.faults.draw("create", without_credentials(accepted.source), LATE_KINDS)
    now = platform.clock.now()
    if late:
        entry.faults.append(late[0].id)
        due = now + round(late[0].parameters["delay_sec"] * 1000)
        await in_thread(request, platform.creation.create_later, body, due)
        return Unanswered(hang=late[0].parameters["connection"] == "hang")
    task_id = await in_thread(request, platform.creation.create, accepted, body, now, entry)
    location = f"{str(request.url).partition('?')[0]}/{task_id}"
    return json_response(request, created_body(task_id, accepted), status=202, headers={"Location": location})


async def list_tasks(request: Request) -> Response:
    """`GET /embed-v2/tasks`: a page of tasks, newest first, without vectors."""
    platform = platform_of(request)
    query = request.query_params
    page, limit = (
        number_from(query.get("page"), "page", 1, 2**31),
        number_from(query.get("page_limit"), "page_limit", 10, MAX_PAGE_LIMIT),
    )
    status = query.get("status") or None
    if status is not None and status not in STATUSES:
        raise Refusal(f"status must be one of {', '.join(STATUSES)}.", "status", status)
    first, last = (_bound(query.get(name), name) for name in ("started_at", "ended_at"))
    faults = platform.faults.draw("list", "", LIST_KINDS)
    request.scope["embed_emulator.journal"].faults += [rule.id for rule in faults]
    items, total = await in_thread(request, _page, platform, faults, first, last, status, page, limit)
    return json_response(request, {"data": items, "page_info": page_info(page, limit, total)})


def _page(
    platform: Platform,
    faults: list[FaultRule],
    first: int | None,
    last: int | None,
    status: str | None,
    page: int,
    limit: int,
) -> tuple[list[dict[str, Any]], int]:
    switches, now = platform.settings.switches, platform.clock.now()
    platform.store.settle(now)
    exclusive = switches.date_bounds == "exclusive"
    oldest = now - round(platform.settings.retention_sec * 1000)
    # As if new tasks had come in (or, with a negative shift, gone) since the page before.
    shift = sum(rule.parameters["by"] for rule in faults if rule.kind == "shift") if page > 1 else 0
    newest = now - round(1000 * max((rule.parameters["lag_sec"] for rule in faults if rule.kind == "lag"), default=0.0))
    tasks, total = platform.store.page(
        # Without dates the list covers the days that results are kept for.
        first_ms=oldest if first is None and last is None else (first or 0) + exclusive,
        last_ms=newest if last is None else min(newest, last - exclusive),
        status=status,
        offset=max(0, (page - 1) * limit - shift),
        limit=limit,
    )
    for rule in faults:
        if rule.kind == "duplicate":
            tasks += tasks[: rule.parameters["items"]]
    if platform.timing.after_polls and any(task.status == "processing" for task in tasks):
        platform.store.count_poll()
    return [list_item(task, switches) for task in tasks], total


async def retrieve_task(request: Request) -> Response:
    """`GET /embed-v2/tasks/{task_id}`: a task with all its vectors in one body."""
    platform = platform_of(request)
    task_id = request.path_params["task_id"]
    if not TASK_ID.fullmatch(task_id) and platform.settings.switches.malformed_id == 400:
        raise Refusal("task_id is not a valid id.", "task_id", task_id)
    task = await in_thread(request, _look_up, platform, task_id)
    if task is None:
        raise not_found("Embedding task", task_id)
    body = task_body(task, platform.settings.switches)
    if task.status != "ready":
        return json_response(request, body)
    # Threads of their own: a long result that is being written holds up neither creates nor polls.
    answer = asyncio.get_running_loop().run_in_executor(platform.writers, _ready, request, platform, task, body)
    return await answer


def _ready(request: Request, platform: Platform, task: Task, body: dict[str, Any]) -> Response:
    missing = platform.store.missing(task.id)
    if missing:
        # An extension: why an option that was asked for has no rows.
        body["metadata"]["embedding_missing"] = missing
    frame, bodies = ready_frame(body), platform.bodies
    try:
        if accepts_gzip(request):
            return file_response(request, bodies.gzipped(task, frame), headers={"Content-Encoding": "gzip"})
        return file_response(request, bodies.rows(task), around=frame)
    except LookupError:
        raise not_found("Embedding task", task.id) from None
    except OSError:
        # Without room on the disk the body is written for this request alone.
        return streamed_json(chain(frame[:1], bodies.fresh_rows(task), frame[1:]))


def _look_up(platform: Platform, task_id: str) -> Task | None:
    now = platform.clock.now()
    platform.store.settle(now)
    task = platform.store.get(task_id)
    if task is None:
        return None
    too_old = task.created_at < now - round(platform.settings.retention_sec * 1000)
    if too_old or (task.effects.get("expired") and task.status != "processing"):
        if platform.settings.switches.expired_result == "not_found":
            return None
        return replace(task, status="failed", error=_EXPIRED)
    if task.status == "processing" and platform.timing.after_polls:
        platform.store.count_poll(task_id)
    return task


def not_found(collection: str, item_id: str) -> Refusal:
    """Return the refusal for an id that does not exist."""
    message = f"{collection} with id {item_id[:80]} does not exist."
    return Refusal(message, code="resource_not_exist", status=404)


def number_from(text: str | None, name: str, default: int, highest: int) -> int:
    """Read a page number or a page size.

    Args:
        text: The query parameter, or None.
        name: Its name, for the message.
        default: What holds without it.
        highest: The largest value allowed; the smallest is 1.

    Raises:
        Refusal: If it is no number within the bounds.
    """
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= highest:
        raise Refusal(f"{name} must be a whole number from 1 to {highest}.", name, text)
    return int(text)


def _bound(text: str | None, name: str) -> int | None:
    if not text:
        return None
    try:
        return from_rfc3339(text)
    except ValueError:
        raise Refusal(f"{name} must be an RFC 3339 time such as 2024-09-26T10:29:19Z.", name, text) from None


ROUTES = [
    Route("/embed-v2/tasks", create_task, methods=["POST"]),
    Route("/embed-v2/tasks", list_tasks, methods=["GET"]),
    Route("/embed-v2/tasks/{task_id}", retrieve_task, methods=["GET"]),
]
