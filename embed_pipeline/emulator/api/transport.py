"""httpx transports that carry requests to an emulator in this process, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx
from starlette.types import ASGIApp, Message

Serve = Callable[[httpx.Request, bytes], "Future[httpx.Response]"]
"""Takes a request and its body to the loop that serves it."""


class EmulatorTransport(httpx.BaseTransport):
    """For `httpx.Client(transport=...)`.

    Args:
        serve: Takes requests to the emulator's event loop.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Serve one request."""
        return self._serve(request, request.read()).result()


class AsyncEmulatorTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=...)`, on any event loop.

    Args:
        serve: Takes requests to the emulator's event loop.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve one request."""
        return await asyncio.wrap_future(self._serve(request, await request.aread()))


class _Connection:
    """The connection that a fault rule may break; nothing is waited for in real time."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.hung = False

    def drop(self, *, orderly: bool = False) -> None:  # noqa: ARG002 - the body tells the two apart
        self.gone.set()

    def hang(self) -> None:
        self.hung = True
        self.gone.set()


async def respond(application: ASGIApp, request: httpx.Request, body: bytes) -> httpx.Response:
    """Carry one request through an ASGI application.

    Raises:
        httpx.ReadError: If a fault rule broke the connection before the answer.
        httpx.ReadTimeout: If a fault rule let it hang.
    """
    status, headers, blocks = 0, [], list[bytes]()
    connection, sent, complete = _Connection(), False, False
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, request.url.port or 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
        "extensions": {"embed_emulator.connection": connection},
    }

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await connection.gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, headers, complete
        if message["type"] == "http.response.start":
            status, headers = message["status"], message["headers"]
        else:
            blocks.append(message.get("body", b""))
            complete = not message.get("more_body", False)

    await application(scope, receive, send)
    if connection.hung:
        raise httpx.ReadTimeout("The emulator did not answer.", request=request)
    if connection.gone.is_set() and not status:
        raise httpx.ReadError("The emulator broke the connection.", request=request)
    if not complete:
        raise httpx.RemoteProtocolError("The emulator broke the connection within the body.", request=request)
    if request.method == "HEAD":
        blocks = []
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(b"".join(blocks)), request=request)
