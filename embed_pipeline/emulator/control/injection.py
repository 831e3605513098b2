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


class Connection(Protocol):
    """The client's connection, for faults that HTTP has no words for."""

    def drop(self, *, orderly: bool = False) -> None:
        """Break it: with a reset, or in good order."""

    def hang(self) -> None:
        """Leave it open, without an answer, until the client gives up."""


class Unanswered(Response):
    """No answer at all: the connection is dropped, or hangs until the client gives up.

    Args:
        hang: Whether it hangs.
    """

    def __init__(self, *, hang: bool) -> None:
        super().__init__()
        self._hang = hang

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """End the exchange."""
        connection: Connection = scope["embed_emulator.connection"]
        if self._hang:
            connection.hang()
        else:
            connection.drop()
        await _disconnected(receive)


class Injection:
    """Serves requests with the faults that apply to them.

    Args:
        plan: The rules in force.
        answer: Answers a request without faults.
    """

    def __init__(self, plan: FaultPlan, answer: ASGIApp) -> None:
        self._plan = plan
        self._answer = answer

    async def serve(self, rules: list[FaultRule], scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Args:
            rules: The rules that apply to it.
            scope: The request's ASGI scope, with its `Connection` as `embed_emulator.connection`.
            receive: Receives its body.
            send: Sends the answer.
        """
        after: list[FaultRule] = []
        for rule in rules:
            late = rule.kind != "latency" and rule.parameters.get("when", "after") == "after"
            if late:
                after.append(rule)
            elif rule.kind == "latency":
                await asyncio.sleep(self._plan.latency(rule))
            elif rule.kind == "drop":
                await Unanswered(hang=False)(scope, receive, send)
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
        if parts:
            await self._send_faulty(after, parts, scope, receive, send)

    async def _send_faulty(
        self, rules: list[FaultRule], parts: list[Message], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send what the routes answered, but with faults: the request has had its effect by now."""
        start = parts[0]
        body = b"".join(part.get("body", b"") for part in parts[1:])
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        rate, step, stop = 0.0, len(body), len(body)
        for rule in rules:
            if rule.kind == "drop":
                await Unanswered(hang=False)(scope, receive, send)
                return
            if rule.kind == "status":
                await _faulty_response(rule, scope)(scope, receive, send)
                return
            if rule.kind == "content_type":
                headers = [(name, value) for name, value in headers if name != b"content-type"]
                headers.append((b"content-type", rule.parameters["value"].encode("latin-1", "replace")))
            elif rule.kind == "truncate":
                stop = int(len(body) * rule.parameters["fraction"])
            elif rule.kind in ("slow", "drip"):
                rate = rule.parameters["bytes_per_sec"]
                # Ten pieces a second are slow enough to be felt and quick enough to be smooth.
                step = 1 if rule.kind == "drip" else int(rate / 10)
        await send({**start, "headers": headers})
        step = max(1, step)
        for first in range(0, stop, step):
            await send({"type": "http.response.body", "body": body[first : min(first + step, stop)], "more_body": True})
            if rate:
                await asyncio.sleep(step / rate)
        if stop < len(body):
            # What was sent so far arrives; only the rest is missing.
            connection: Connection = scope["embed_emulator.connection"]
            connection.drop(orderly=True)
            await _disconnected(receive)
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


def connection_of(scope: Scope, send: Send) -> Connection:
    """Return the client's connection: the in-process transport brings its own, else it is uvicorn's."""
    own: Connection | None = scope.get("extensions", {}).get("embed_emulator.connection")
    # ASGI has no message for this. Uvicorn's `send` is a method of its request cycle, which holds the transport.
    return own or _UvicornConnection(getattr(getattr(send, "__self__", None), "transport", None))


class _UvicornConnection:
    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def drop(self, *, orderly: bool = False) -> None:
        if self._transport is None:
            raise ConnectionAbortedError("This server cannot break connections; the fault rule has no effect.")
        if orderly:
            self._transport.close()
            return
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            # Without lingering the peer sees a reset, not an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def hang(self) -> None:
        """Do nothing: the server answers no further request on this connection before this one."""


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
