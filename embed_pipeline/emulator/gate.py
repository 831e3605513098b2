"""What every request to the platform passes: journal, faults, key and limits, in that order."""

from __future__ import annotations

import asyncio
import hmac
import socket
import struct
import time
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embed_pipeline.emulator.answers import refused
from embed_pipeline.emulator.endpoints import endpoint_of
from embed_pipeline.emulator.faults import FaultRule
from embed_pipeline.emulator.journal import JournalEntry
from embed_pipeline.emulator.limits import Category, limit_refusal
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.refusal import Refusal

# Which budget the synchronous endpoint draws on depends on what is sent; its route asks for itself.
_CATEGORIES: dict[str, Category] = {"create": "embed", "asset_create": "upload"}
_POLLING = ("list", "retrieve")
_STATUS_CODES = {401: "api_key_invalid", 404: "resource_not_exist", 429: "too_many_requests"}


class Drop(Protocol):
    """Breaks a connection: in good order, or with a reset."""

    def __call__(self, *, orderly: bool = False) -> None:
        """Break it."""


class Gate:
    """An ASGI application around the routes.

    Args:
        app: The routes.
        platform: What they serve.
    """

    def __init__(self, app: ASGIApp, platform: Platform) -> None:
        self._app = app
        self.platform = platform

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path: str = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(("/v1.3/", "/_upload/")):
            await self._app(scope, receive, send)
            return
        platform, endpoint = self.platform, endpoint_of(scope["method"], path)
        entry = JournalEntry(platform.clock.now(), endpoint, scope["method"], path)
        if endpoint in ("list", "asset_list", "upload_list", "upload_status"):
            entry.query = scope["query_string"].decode("latin-1")
        scope["embed_emulator.journal"] = entry
        scope["app"] = self._app
        begin = time.perf_counter()

        async def counted_receive() -> Message:
            message = await receive()
            entry.bytes_in += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
            entry.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            rules = platform.faults.draw(endpoint, path)
            entry.faults += [rule.id for rule in rules]
            await self._with_faults(rules, scope, counted_receive, counted_send, drop=_dropper(scope, send))
        finally:
            entry.took_ms = round((time.perf_counter() - begin) * 1000, 3)
            if platform.journal.add(entry):
                platform.threads.submit(platform.journal.flush)

    async def _with_faults(
        self, rules: list[FaultRule], scope: Scope, receive: Receive, send: Send, *, drop: Drop
    ) -> None:
        after: list[FaultRule] = []
        for rule in rules:
            late = rule.kind != "latency" and rule.parameters.get("when", "after") == "after"
            if late:
                after.append(rule)
            elif rule.kind == "latency":
                await asyncio.sleep(self.platform.faults.latency(rule))
            elif rule.kind == "drop":
                await _disconnect(drop, receive)
                return
            else:
                await _faulty_response(rule, scope)(scope, receive, send)
                return
        if not after:
            await self._answer(scope, receive, send)
            return
        parts: list[Message] = []

        async def hold(message: Message) -> None:
            parts.append(message)

        await self._answer(scope, receive, hold)
        await self._send_faulty(after, parts, scope, receive, send, drop)

    async def _send_faulty(
        self,
        rules: list[FaultRule],
        parts: list[Message],
        scope: Scope,
        receive: Receive,
        send: Send,
        drop: Drop,
    ) -> None:
        """Send what the routes answered, but with faults: the request has had its effect by now."""
        start = parts[0]
        body = b"".join(part.get("body", b"") for part in parts[1:])
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        rate, stop = 0.0, len(body)
        for rule in rules:
            if rule.kind == "drop":
                await _disconnect(drop, receive)
                return
            if rule.kind == "status":
                await _faulty_response(rule, scope)(scope, receive, send)
                return
            if rule.kind == "content_type":
                headers = [(name, value) for name, value in headers if name != b"content-type"]
                headers.append((b"content-type", rule.parameters["value"].encode("latin-1", "replace")))
            elif rule.kind == "truncate":
                stop = int(len(body) * rule.parameters["fraction"])
            elif rule.kind == "slow":
                rate = rule.parameters["bytes_per_sec"]
        await send({**start, "headers": headers})
        # Ten pieces a second are slow enough to be felt and quick enough to be smooth.
        step = max(1, int(rate / 10)) if rate else max(1, stop)
        for first in range(0, stop, step):
            await send({"type": "http.response.body", "body": body[first : min(first + step, stop)], "more_body": True})
            if rate:
                await asyncio.sleep(step / rate)
        if stop < len(body):
            # What was sent so far arrives; only the rest is missing.
            await _disconnect(drop, receive, orderly=True)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry: JournalEntry = scope["embed_emulator.journal"]
        if entry.endpoint == "chunk":
            await self._app(scope, receive, send)
            return
        refusal = self._key_refusal(scope)
        headers: dict[str, str] = {}
        if refusal is None:
            verdict_headers, refusal = self._limit(entry.endpoint)
            headers.update(verdict_headers)
        if refusal is not None:
            await refused(Request(scope), refusal)(scope, receive, send)
            return
        if not headers:
            await self._app(scope, receive, send)
            return
        extra = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self._app(scope, receive, with_headers)

    def _limit(self, endpoint: str) -> tuple[dict[str, str], Refusal | None]:
        category = _CATEGORIES.get(endpoint)
        if category is None and endpoint in _POLLING and self.platform.settings.switches.limit_polling:
            category = "embed"
        if category is None:
            return {}, None
        verdict = self.platform.limiter.request(category, self.platform.clock.now())
        if verdict.allowed:
            return verdict.headers, None
        return verdict.headers, limit_refusal(verdict)

    def _key_refusal(self, scope: Scope) -> Refusal | None:
        key = b""
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                key = value
        wanted = self.platform.settings.api_key
        if key.strip() and (wanted is None or hmac.compare_digest(key, wanted.encode())):
            return None
        message = "The API key is missing." if not key.strip() else "The API key is not valid."
        return Refusal(f"{message} Send a valid key in the x-api-key header.", code="api_key_invalid", status=401)


def _faulty_response(rule: FaultRule, scope: Scope) -> Response:
    """Build the answer of a status rule."""
    status, retry_after = rule.parameters["status"], rule.parameters["retry_after"]
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    match rule.parameters["body"]:
        case "empty":
            return Response(b"", status, headers)
        case "html":
            return Response(f"<html><body><h1>{status}</h1></body></html>", status, headers, "text/html")
        case "text":
            return Response("upstream connect error or disconnect/reset before headers", status, headers, "text/plain")
    code = _STATUS_CODES.get(status, "internal_server_error" if status >= 500 else "parameter_invalid")
    message = "Too many requests. Please try again later." if status == 429 else "The request could not be served."
    return refused(Request(scope), Refusal(message, code=code, status=status, headers=headers))


def _dropper(scope: Scope, send: Send) -> Drop:
    """Find out how to break the connection: what serves the application says so, or its transport is at hand."""
    drop: Drop | None = scope.get("extensions", {}).get("embed_emulator.drop")
    if drop is not None:
        return drop
    # ASGI has no message for this. Uvicorn's `send` is a method of its request cycle, which holds the transport.
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)

    def abort(*, orderly: bool = False) -> None:
        if transport is None:
            raise ConnectionAbortedError("This server cannot break connections; the fault rule has no effect.")
        if orderly:
            transport.close()
            return
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Without lingering the peer sees a reset, not an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    return abort


async def _disconnect(drop: Drop, receive: Receive, *, orderly: bool = False) -> None:
    drop(orderly=orderly)
    while (await receive())["type"] != "http.disconnect":
        pass
