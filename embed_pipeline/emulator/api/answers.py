"""Requests in and responses out: JSON bodies under a size limit, refusals in the platform's shapes, gzip."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from embed_pipeline.emulator.api.wire import error_body, nested_shape
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.state.bodies import compressed

T = TypeVar("T")
_GZIP_FROM = 1024
_BLOCK = 1 << 20
_AT_ONCE = 4 << 20


def platform_of(request: Request) -> Platform:
    """Return the platform that serves a request."""
    platform: Platform = request.app.state.platform
    return platform


def origin_of(request: Request) -> str:
    """Return scheme, host and port that the client reached."""
    return f"{request.url.scheme}://{request.url.netloc}"


async def in_thread(request: Request, function: Callable[..., T], *values: Any) -> T:
    """Run a blocking call of the stores beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(platform_of(request).threads, function, *values)


def refused(request: Request, refusal: Refusal) -> Response:
    """Answer with an error, in the shape its endpoint has."""
    path: str = request.scope["path"]
    # Documented: nested for creating and retrieving embed tasks, flat for their list, for assets and for the key.
    embed = "/embed-v2" in path and not (path.endswith("/tasks") and request.method == "GET")
    embed = embed and refusal.status != 401
    nested = nested_shape(platform_of(request).settings.switches, embed=embed)
    return json_response(request, error_body(refusal, nested=nested), status=refusal.status, headers=refusal.headers)


async def read_json(request: Request, limit: int) -> Any:
    """Read a JSON body.

    Args:
        request: The request.
        limit: The largest body in bytes.

    Raises:
        Refusal: If it is too large (413) or not JSON (400).
    """
    blocks, size = [], 0
    async for block in request.stream():
        size += len(block)
        if size > limit:
            raise Refusal(f"The request body exceeds {limit} bytes.", status=413, code="request_too_large")
        blocks.append(block)
    try:
        return orjson.loads(b"".join(blocks))
    except orjson.JSONDecodeError:
        raise Refusal("The request body is not valid JSON.") from None


def accepts_gzip(request: Request) -> bool:
    """Return whether a body may be compressed: the switch is on and the client accepts it."""
    if not platform_of(request).settings.switches.gzip:
        return False
    return "gzip" in request.headers.get("accept-encoding", "").lower()


def json_response(
    request: Request, body: bytes | dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a JSON body, compressed where that was agreed on."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = dict(headers or {})
    if len(content) >= _GZIP_FROM and accepts_gzip(request):
        headers["Content-Encoding"] = "gzip"
        content = b"".join(compressed([content]))
    return Response(content, status, headers, "application/json")


def streamed_json(blocks: Iterator[bytes]) -> Response:
    """Answer with a JSON body as it is made; the blocks are made in a thread."""
    return StreamingResponse(blocks, media_type="application/json")


def file_response(
    request: Request,
    file: BinaryIO,
    *,
    around: tuple[bytes, bytes] = (b"", b""),
    headers: dict[str, str] | None = None,
) -> Response:
    """Answer with a JSON body that lies in a file: at once if it is small, else a block at a time. Blocking.

    Args:
        request: The request.
        file: The open file; it is closed once it was sent.
        around: What stands before and after its content.
        headers: Further headers.
    """
    size = os.fstat(file.fileno()).st_size
    if size <= _AT_ONCE:
        with file:
            return Response(b"".join((around[0], file.read(), around[1])), 200, headers, "application/json")

    async def blocks() -> AsyncIterator[bytes]:
        with file:
            yield around[0]
            while block := await in_thread(request, file.read, _BLOCK):
                yield block
            yield around[1]

    length = str(len(around[0]) + size + len(around[1]))
    return StreamingResponse(blocks(), 200, {**(headers or {}), "Content-Length": length}, "application/json")
