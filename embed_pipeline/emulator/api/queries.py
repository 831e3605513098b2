"""`POST /embed-v2`: text, an image, a short film, or several of them together, embedded at once."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embed_pipeline.emulator.api.answers import json_response, platform_of, read_json
from embed_pipeline.emulator.api.wire import media_metadata, origin_fields, ready_frame
from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.engine.failure import TASK_FAILED
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.rules.accept import SyncRequest, accept_query, category_of
from embed_pipeline.emulator.rules.rate_limits import limit_refusal
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.tokens import usage_body
from embed_pipeline.emulator.state.bodies import rows_json
from embed_pipeline.emulator.state.clock import new_id
from embed_pipeline.emulator.state.journal import JournalEntry
from embed_pipeline.emulator.work.queries import SyncResult

_log = logging.getLogger(__name__)


async def embed_at_once(request: Request) -> Response:
    """`POST /embed-v2`: check the request, embed what it holds, answer with the vectors."""
    platform = platform_of(request)
    body = await read_json(request, platform.settings.sizes.body)
    decision = platform.limiter.request(category_of(body), platform.clock.now())
    if not decision.allowed:
        raise limit_refusal(decision)
    entry = request.scope["embed_emulator.journal"]
    try:
        accepted = accept_query(body, platform.settings.switches)
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(platform.sync_threads, _embed, platform, accepted, entry)
    except Refusal as refusal:
        refusal.headers = {**decision.headers, **refusal.headers}
        raise
    return json_response(request, content, headers=decision.headers)


def _embed(platform: Platform, accepted: SyncRequest, entry: JournalEntry) -> bytes:
    key = f"{new_id(platform.clock.now())}.sync"
    try:
        result = platform.sync.embed(accepted, key)
    except (Refusal, sqlite3.Error):
        raise
    except Exception as error:
        # An engine's own mistake is answered in the platform's shape too.
        _log.exception("A request failed for a reason of the emulator's own.")
        raise Refusal(TASK_FAILED, code="internal_server_error", status=500) from error
    newer = accepted.model_name == "marengo3.5"
    usage = usage_body(result.tokens, truncated=result.truncated) if newer else None
    platform.count(sum(part.seconds for part in result.parts), usage)
    platform.journal.pay(key, result.name)
    entry.source = result.name
    head, tail = ready_frame(_frame(accepted, result, usage, platform.settings.switches))
    return b"".join([head, *rows_json(result.rows, wide=platform.settings.switches.wide_numbers), tail])


def _frame(
    accepted: SyncRequest, result: SyncResult, usage: dict[str, Any] | None, switches: Switches
) -> dict[str, Any]:
    """Write the answer but for its vectors."""
    engine = result.rows.engine
    # Extensions: what computed the vectors, and which rows of tasks they may be compared with.
    body: dict[str, Any] = {"embedding_engine": engine, "embedding_comparable_with": result.comparable}
    if usage is not None:
        body["usage"] = usage
    metadata: dict[str, Any] = {"input_type": accepted.input_type}
    if accepted.input_type == "multi_input":
        if usage is not None:
            metadata["embedding_dimension"] = accepted.dimension
    elif result.parts:
        part = result.parts[0]
        origin = origin_fields(part.input_url, part.input_filename, switches)
        metadata |= origin
        if part.request.timed:
            metadata = media_metadata(part.request, origin, part.result.duration_sec, None)
    else:
        return body  # A text alone has no metadata.
    body["metadata"] = metadata | {"embedding_engine": engine}
    if result.rows.missing:
        body["metadata"]["embedding_missing"] = result.rows.missing
    return body


ROUTES = [Route("/embed-v2", embed_at_once, methods=["POST"])]
