"""The control API under `/_emulator`, for tests; the platform has nothing like it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields, replace
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embed_pipeline.emulator.api.answers import in_thread, platform_of, read_json
from embed_pipeline.emulator.api.openapi import openapi_document
from embed_pipeline.emulator.control.behaviour import Timing
from embed_pipeline.emulator.control.faults import MESSAGES
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.rules.rate_limits import limits_of
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.state.clock import to_rfc3339
from embed_pipeline.errors import ConfigurationError

_BODY = 4 << 20
Handler = Callable[[Request], Awaitable[dict[str, Any]]]


def _served(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Answer with JSON, also for errors."""

    async def serve(request: Request) -> Response:
        try:
            if "origin" in request.headers:
                # A web page in a browser must not control the emulator.
                raise Refusal("The control API is not for web pages.", status=403, code="forbidden")
            body, status = await handler(request), 200
        except Refusal as refusal:
            body, status = {"code": refusal.code, "message": refusal.message}, refusal.status
        except (ConfigurationError, ValueError) as error:
            body, status = {"code": "parameter_invalid", "message": str(error)}, 400
        return Response(orjson.dumps(body), status, media_type="application/json")

    return serve


async def _object(request: Request, *names: str) -> dict[str, Any]:
    body = await read_json(request, _BODY) if request.headers.get("content-length", "0") != "0" else {}
    if not isinstance(body, dict):
        raise Refusal("The request body must be a JSON object.")
    unknown = sorted(set(body) - set(names))
    if unknown:
        takes = ", ".join(names) or "nothing"
        raise Refusal(f"{unknown[0][:80]} is not known here; this call takes {takes}.", code="parameter_unknown")
    return body


def _whole(request: Request, name: str, default: int | None) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Refusal(f"{name} must be a whole number.")
    return int(text)


async def status(request: Request) -> dict[str, Any]:
    """Return engine, time, tasks by status, and the settings in force."""
    platform = platform_of(request)
    return {
        "engine": platform.settings.engine,
        "now": to_rfc3339(platform.clock.now()),
        "tasks": await in_thread(request, platform.store.counts),
        "timing": asdict(platform.timing),
        "limits": platform.limiter.limits,
        "switches": asdict(platform.settings.switches),
    }


async def read_journal(request: Request) -> dict[str, Any]:
    """Return journal entries, oldest first."""
    query = request.query_params

    def read() -> list[dict[str, Any]]:
        return platform_of(request).journal.entries(
            endpoint=query.get("endpoint"),
            status=_whole(request, "status", None),
            after=_whole(request, "after", 0) or 0,
            limit=min(_whole(request, "limit", 1000) or 0, 10_000),
        )

    return {"entries": await in_thread(request, read)}


async def read_summary(request: Request) -> dict[str, Any]:
    """Count requests, tasks, and sources for which more than one task was created."""
    return await in_thread(request, platform_of(request).journal.summary)


async def clear_journal(request: Request) -> dict[str, Any]:
    """Forget every journal entry."""
    await in_thread(request, platform_of(request).journal.clear)
    return {}


async def read_faults(request: Request) -> dict[str, Any]:
    """Return the fault rules in force and how often each happened."""
    return platform_of(request).faults.to_json()


async def replace_faults(request: Request) -> dict[str, Any]:
    """Put other fault rules in force."""
    values = await _object(request, "faults", "seed")
    rules, seed = values.get("faults", []), values.get("seed", 0)
    if not isinstance(rules, list) or isinstance(seed, bool) or not isinstance(seed, int):
        raise Refusal("faults must be a list of rules, and seed a whole number.")
    platform_of(request).faults.replace(rules, seed)
    return platform_of(request).faults.to_json()


async def clear_faults(request: Request) -> dict[str, Any]:
    """Let nothing go wrong from now on."""
    platform_of(request).faults.replace([])
    return {}


async def replace_limits(request: Request) -> dict[str, Any]:
    """Put another plan or other limits in force, with nothing of them spent."""
    values = await _object(request, "plan", "limits")
    limits = values.get("limits") or {}
    if not isinstance(limits, dict):
        raise Refusal('limits must be an object such as {"requests_per_minute": 5}.')
    platform = platform_of(request)
    platform.limiter.replace(limits_of(str(values.get("plan", "none")), limits))
    return {"limits": platform.limiter.limits}


async def advance_clock(request: Request) -> dict[str, Any]:
    """Move the clock forward by a number of seconds."""
    values = await _object(request, "seconds")
    seconds = values.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise Refusal("seconds must be a number.")
    return {"now": to_rfc3339(await in_thread(request, platform_of(request).clock.advance, seconds))}


async def replace_timing(request: Request) -> dict[str, Any]:
    """Change when tasks show as finished; tasks that exist keep their polls and their holding."""
    names = [member.name for member in fields(Timing)]
    values = await _object(request, *names)
    for name, value in values.items():
        wants_bool = name == "on_command"
        right = (
            isinstance(value, bool) if wants_bool else isinstance(value, int | float) and not isinstance(value, bool)
        )
        if not right or (not wants_bool and not 0 <= value < 10**9):
            raise Refusal(f"{name} must be {'true or false' if wants_bool else 'a number that is not negative'}.")
    platform = platform_of(request)
    platform.timing = replace(platform.timing, **values)
    return asdict(platform.timing)


async def release_all(request: Request) -> dict[str, Any]:
    """Let every task that is processing show its outcome as soon as there is one."""
    platform = platform_of(request)
    return {"released": await in_thread(request, _release, platform, None)}


async def change_task(request: Request) -> dict[str, Any]:
    """Release, fail or expire one task."""
    platform, task_id = platform_of(request), request.path_params["task_id"]
    action = request.path_params["action"]
    values = await _object(request, *(["message"] if action == "fail" else []))

    def change() -> None:
        if platform.store.get(task_id) is None:
            raise Refusal(f"There is no task {task_id[:80]}.", status=404, code="resource_not_exist")
        match action:
            case "release":
                _release(platform, task_id)
            case "fail":
                message = str(values.get("message", "failed"))
                platform.store.overrule(task_id, MESSAGES.get(message, message), now=platform.clock.now())
            case "expire":
                platform.store.add_effect(task_id, "expired", value=True)
            case _:
                raise Refusal("A task can be released, failed or expired: release, fail, expire.", status=404)

    await in_thread(request, change)
    return {}


def _release(platform: Platform, task_id: str | None) -> int:
    return platform.store.release(task_id, now=platform.clock.now())


async def openapi(_request: Request) -> dict[str, Any]:
    """Return the OpenAPI document of what the emulator serves."""
    return openapi_document()


ROUTES = [
    Route("/status", _served(status), methods=["GET"]),
    Route("/journal", _served(read_journal), methods=["GET"]),
    Route("/journal", _served(clear_journal), methods=["DELETE"]),
    Route("/journal/summary", _served(read_summary), methods=["GET"]),
    Route("/faults", _served(read_faults), methods=["GET"]),
    Route("/faults", _served(replace_faults), methods=["PUT"]),
    Route("/faults", _served(clear_faults), methods=["DELETE"]),
    Route("/limits", _served(replace_limits), methods=["PUT"]),
    Route("/clock", _served(advance_clock), methods=["POST"]),
    Route("/timing", _served(replace_timing), methods=["PATCH"]),
    Route("/tasks/release", _served(release_all), methods=["POST"]),
    Route("/tasks/{task_id}/{action}", _served(change_task), methods=["POST"]),
    Route("/openapi.json", _served(openapi), methods=["GET"]),
]
