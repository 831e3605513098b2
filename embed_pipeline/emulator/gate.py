"""What every request to the platform passes before it reaches its route: the key."""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from embed_pipeline.emulator.answers import refused
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.refusal import Refusal


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
        if scope["type"] != "http" or not scope["path"].startswith("/v1.3/"):
            await self._app(scope, receive, send)
            return
        refusal = self._key_refusal(scope)
        if refusal is not None:
            scope["app"] = self._app
            await refused(Request(scope), refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

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
