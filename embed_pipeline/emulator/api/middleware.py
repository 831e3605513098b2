"""Middleware around all routes: host, journal, faults, key and limits, in that order."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Collection
from email.utils import formatdate

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embed_pipeline.emulator.api.answers import refused
from embed_pipeline.emulator.api.endpoints import endpoint_of
from embed_pipeline.emulator.control.injection import Injection, connection_of
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.rules.rate_limits import Category, limit_refusal
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.state.journal import JournalEntry

# Which budget the synchronous endpoint draws on depends on what is sent; its route asks for itself.
_CATEGORIES: dict[str, Category] = {"create": "embed", "asset_create": "upload"}
_POLLING = ("list", "retrieve")


class Middleware:
    """An ASGI application around the routes.

    Args:
        app: The routes.
        platform: What they serve.
        hosts: The names and addresses by which it may be reached, beside those of loopback. None allows any.
    """

    def __init__(self, app: ASGIApp, platform: Platform, hosts: Collection[str] | None = None) -> None:
        self._app = app
        self.platform = platform
        self._hosts = hosts
        self._injection = Injection(platform.faults, self._answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        scope["embed_emulator.connection"] = connection_of(scope, send)

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Of the platform's clock, which may be ahead of this machine's or behind.
                date = formatdate(self.platform.clock.now() / 1000, usegmt=True).encode()
                message = {**message, "headers": [*message["headers"], (b"date", date)]}
            await send(message)

        if self._hosts is not None and not is_served(_host_of(scope), self._hosts):
            # A page in a browser can have any name lead here; it must not read answers under that name.
            message = "This host name is not served; use a loopback address, or start the emulator with --allow-host."
            refusal = Refusal(message, code="host_not_allowed", status=421)
            await refused(Request(scope), refusal)(scope, receive, dated)
        elif scope["path"].startswith(("/v1.3/", "/_upload/")):
            await self._recorded(scope, receive, dated)
        else:
            await self._app(scope, receive, dated)

    async def _recorded(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        platform, endpoint = self.platform, endpoint_of(scope["method"], path)
        entry = JournalEntry(platform.clock.now(), endpoint, scope["method"], path)
        if endpoint in ("list", "asset_list", "upload_list", "upload_status"):
            entry.query = scope["query_string"].decode("latin-1")
        scope["embed_emulator.journal"] = entry
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
            await self._injection.serve(rules, scope, counted_receive, counted_send)
        finally:
            entry.took_ms = round((time.perf_counter() - begin) * 1000, 3)
            if platform.journal.add(entry):
                platform.threads.submit(platform.journal.flush)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry: JournalEntry = scope["embed_emulator.journal"]
        if entry.endpoint == "chunk":
            await self._app(scope, receive, send)
            return
        refusal = self._key_refusal(scope)
        headers: dict[str, str] = {}
        if refusal is None:
            limit_headers, refusal = self._limit(entry.endpoint)
            headers.update(limit_headers)
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
        decision = self.platform.limiter.request(category, self.platform.clock.now())
        if decision.allowed:
            return decision.headers, None
        return decision.headers, limit_refusal(decision)

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


def is_served(host: str, hosts: Collection[str]) -> bool:
    """Return whether requests under a host name are served.

    Args:
        host: Name or address, without a port.
        hosts: What is served beside the names and addresses of loopback.
    """
    name = host.rstrip(".").lower()
    if name in hosts or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_of(scope: Scope) -> str:
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
