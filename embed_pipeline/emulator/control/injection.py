"""Fault rules applied to a request and its answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embed_pipeline.emulator.api.answers import refused
from embed_pipeline.emulator.control.faults import FaultPlan, FaultRule
from embed_pipeline.emulator.rules.refusal import Refusal

_STATUS_CODES = {401: "api_key_invalid", 404: "resource_not_exist", 429: "too_many_requests"}


class Drop(Protocol):
    """Breaks a connection: in good order, or with a reset."""

    def __call__(self, *, orderly: bool = False) -> None:
        """Break it."""


class Injection:
    """Serves requests with the faults that apply to them.

    Args:
        plan: The rules in force.
        answer: Answers a request without faults.
    """

    def __init__(self, plan: FaultPlan, answer: ASGIApp) -> None:
        self._plan = plan
        self._answer = answer

    async def serve(self, rules: list[FaultRule], scope: Scope, receive: Receive, send: Send, *, drop: Drop) -> None:
        """Serve one request.

        Args:
            rules: The rules that apply to it.
            scope: The request's ASGI scope.
            receive: Receives its body.
            send: Sends the answer.
            drop: Breaks the connection.
        """
        after: list[FaultRule] = []
        for rule in rules:
            late = rule.kind != "latency" and rule.parameters.get("when", "after") == "after"
            if late:
                after.append(rule)
            elif rule.kind == "latency":
                await asyncio.sleep(self._plan.latency(rule))
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


def dropper(scope: Scope, send: Send) -> Drop:
    """Return what breaks the connection: the in-process transport brings it along, else uvicorn's transport is used."""
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
